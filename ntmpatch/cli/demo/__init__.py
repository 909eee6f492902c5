"""``ntmpatch demo``: the whole system on one machine, with a real transfer and a handover."""

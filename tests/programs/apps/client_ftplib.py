"""Usage: client_ftplib.py NAME PORT"""

import ftplib
import io
import sys

from content import PLAIN_SIZE, Checks, blob

name, port = sys.argv[1], int(sys.argv[2])
checks = Checks()
for mode, is_passive in (("passive", True), ("active", False)):
    with ftplib.FTP(timeout=30) as client:
        client.connect(name, port)
        client.login("user", "correct horse")
        client.set_pasv(is_passive)
        client.storbinary(f"STOR {mode}", io.BytesIO(blob(PLAIN_SIZE)))
        back = io.BytesIO()
        client.retrbinary(f"RETR {mode}", back.write)
        lines: list[str] = []
        client.retrlines("NLST", lines.append)
        checks.equal(
            f"{mode}: STOR and RETR of 2 MB, NLST",
            (back.getvalue(), lines),
            (blob(PLAIN_SIZE), [mode]),
        )
        client.delete(mode)
checks.report()

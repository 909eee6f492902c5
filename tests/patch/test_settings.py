"""What a process knows of its node before it has one."""

from __future__ import annotations

import json

import pytest

from ntmpatch.base.errors import ConfigError
from ntmpatch.patch.node import ProcessNode
from ntmpatch.patch.settings import from_environment


def environment(tmp_path, **more):
    return {"NTMPATCH_STATE": str(tmp_path), **more}


def test_nothing_configured_is_nothing_enabled(tmp_path):
    assert not from_environment(environment(tmp_path)).is_enabled


def test_names_are_those_the_node_has_written(tmp_path):
    written = {"domains": ["Home.Example"], "prefixes": ["198.18.0.0/15"]}
    (tmp_path / "names.json").write_text(json.dumps(written))
    node = ProcessNode(from_environment(environment(tmp_path)))
    assert node.is_enabled
    assert node.is_node_name("cam.home.example")
    assert not node.is_node_name("home.example")
    assert not node.is_node_name("cam.other.example")
    assert node.target(2, ("198.19.0.1", 80)) == (b"\xc6\x13\x00\x01", 80)
    assert node.target(10, ("::ffff:198.19.0.1", 80, 0, 0)) == (b"\xc6\x13\x00\x01", 80)
    for other in (("198.20.0.1", 80), ("", 80), ("198.19.0.1", 65536), ("198.19.0.1",), "path"):
        assert node.target(2, other) is None


def test_static_peers_are_known_by_the_configuration(tmp_path):
    config = tmp_path / "node.toml"
    config.write_text(
        '[node]\nname = "me.lan"\naddresses = ["10.9.0.1"]\n'
        '[[peer]]\npublic_key = ""\nname = "them"\naddresses = ["10.9.0.2", "fd00::2"]\n'
    )
    node = ProcessNode(from_environment(environment(tmp_path, NTMPATCH_CONFIG=str(config))))
    assert node.is_node_name("them")
    assert node.is_node_name("ME.lan.")
    assert not node.is_node_name("other.lan")
    assert node.target(2, ("10.9.0.2", 1)) == (bytes([10, 9, 0, 2]), 1)
    assert node.target(2, ("10.9.0.3", 1)) is None


def test_unknown_domains_are_asked_for_but_not_for_numbers_and_not_again_and_again(tmp_path):
    settings = from_environment(environment(tmp_path, NTMPATCH_TOKEN="ntm1.x"))
    asked = []

    class Asking(ProcessNode):
        def _start(self):
            asked.append(1)
            raise OSError(111, "refused")

    node = Asking(settings)
    for numeric in ("127.0.0.1", "fe80::1", "localhost"):
        assert not node.is_node_name(numeric)
    assert not asked
    for _ in range(3):
        assert not node.is_node_name("www.example.org")
    assert len(asked) == 1


@pytest.mark.parametrize("content", ["{", "[]", '{"domains": 5}'])
def test_broken_names_file_is_told(tmp_path, content):
    (tmp_path / "names.json").write_text(content)
    with pytest.raises(ConfigError, match=r"names\.json"):
        from_environment(environment(tmp_path))


def test_broken_configuration_is_told(tmp_path):
    (tmp_path / "node.toml").write_text("[node\n")
    with pytest.raises(ConfigError, match=r"node\.toml"):
        from_environment(environment(tmp_path, NTMPATCH_CONFIG=str(tmp_path / "node.toml")))

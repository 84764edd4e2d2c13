from pathlib import Path

from stedm_jax.doctor import kept

SAID = {"refused": "", "arguments": 1.0}


def test_what_was_said_comes_back(tmp_path: Path) -> None:
    folder = str(tmp_path / "cache")
    assert kept.recall(folder, "one") is None
    kept.keep(folder, "one", SAID, "HloModule x\n")
    assert kept.recall(folder, "one") == (SAID, "HloModule x\n")
    kept.keep(folder, "two", {"refused": "too large"}, "")
    assert kept.recall(folder, "two") == ({"refused": "too large"}, "")


def test_without_a_folder_nothing_is_kept(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    kept.keep("", "one", SAID, "text")
    assert kept.recall("", "one") is None and not list(tmp_path.iterdir())


def test_what_is_damaged_is_compiled_again(tmp_path: Path) -> None:
    for name, damage in (("text", ".txt.gz"), ("json", ".json")):
        kept.keep(str(tmp_path), name, SAID, "HloModule x\n")
        file = tmp_path / f"{name}{damage}"
        file.write_bytes(file.read_bytes()[:7])
        assert kept.recall(str(tmp_path), name) is None


def test_another_program_pod_version_or_option_is_another_name(monkeypatch) -> None:
    name = kept.fingerprint("program", "v5e:4x4")
    assert name == kept.fingerprint("program", "v5e:4x4")
    others = [kept.fingerprint("other", "v5e:4x4"), kept.fingerprint("program", "v5e:2x2")]
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_something")
    others.append(kept.fingerprint("program", "v5e:4x4"))
    monkeypatch.delenv("LIBTPU_INIT_ARGS")
    monkeypatch.setattr(kept.importlib.metadata, "version", lambda name: "9.9")
    others.append(kept.fingerprint("program", "v5e:4x4"))
    assert len({name, *others}) == 5

"""`hlrp doctor` and `hlrp policies` on this installation, and on one with plugins and packages that are wrong."""

import json

from command import hlrp


def add_distribution(site, name: str, version: str) -> None:
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_policies_and_their_sources():
    found = hlrp("policies", "--json")
    assert found.code == 0, found.err
    listed = {p["name"]: p for p in json.loads(found.out)["policies"]}
    assert {"act", "diffusion", "vqbet", "smolvla"} <= set(listed)
    assert listed["act"]["config_class"] == "ACTConfig" and listed["act"]["distribution"] == "lerobot"
    assert listed["act"]["missing"] == []
    text = hlrp("policies")
    assert text.code == 0 and "act " in text.out
    fields = hlrp("policies", "act")
    assert "chunk_size" in fields.out and "= 100" in fields.out
    wrong = hlrp("policies", "akt")
    assert wrong.code == 2 and "'act'" in wrong.err


def test_plugins_that_fail_or_are_skipped_are_named(tmp_path):
    site = tmp_path / "site"
    add_distribution(site, "lerobot_policy_broken", "1.0")
    (site / "lerobot_policy_broken.py").write_text("import a_package_nobody_has\n")
    add_distribution(site, "lerobot-policy-hyphen", "1.0")
    env = {"PYTHONPATH": str(site), "HLRP_CACHE": str(tmp_path / "cache")}
    found = hlrp("policies", "--json", env=env)
    assert found.code == 1
    content = json.loads(found.out)
    assert "a_package_nobody_has" in content["failed"]["lerobot_policy_broken"]
    assert 'name = "lerobot_policy_hyphen"' in content["skipped"]["lerobot-policy-hyphen"]
    assert any(p["name"] == "act" for p in content["policies"])
    assert "Traceback" not in found.err


def test_doctor_finds_a_version_out_of_range_and_says_what_to_do(tmp_path):
    site = tmp_path / "site"
    add_distribution(site, "mujoco", "9.9.9")
    found = hlrp("doctor", "--json", env={"PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"}, cwd=tmp_path)
    content = json.loads(found.out)
    lines = {f["name"]: f for f in content["findings"]}
    assert found.code == 1 and content["ok"] is False
    assert lines["mujoco"]["state"] == "problem" and "9.9.9 is outside of <3.9" in lines["mujoco"]["found"]
    assert "pip install 'mujoco<3.9'" in lines["mujoco"]["fix"]
    for name in ("python", "torch", "lerobot", "lightning", "transformers", "numpy", "metaworld"):
        assert lines[name]["state"] == "ok", lines[name]
    assert lines["lerobot"]["found"].startswith("0.6.") and "<0.7" in lines["lerobot"]["found"]
    for name in ("gpu", "video decoder", "opengl", "plugin", "outputs", "cache", "disk", "hub"):
        assert lines[name]["found"], name
    assert "offline (HF_HUB_OFFLINE)" in lines["hub"]["found"]
    assert all(f["fix"] for f in content["findings"] if f["state"] != "ok")


def test_doctor_is_content_with_this_installation(tmp_path):
    found = hlrp("doctor", cwd=tmp_path)
    assert found.code == 0, found.out
    assert found.out.rstrip().endswith("no problems")


def test_doctor_names_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    found = hlrp("doctor", env={"HF_HOME": str(tmp_path / "file" / "hub")}, cwd=tmp_path)
    assert found.code == 1
    assert "problem  hub cache" in found.out and "-> set HF_HOME" in found.out

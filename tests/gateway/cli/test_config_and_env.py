from __future__ import annotations

import json
from pathlib import Path

import jsonschema


def test_a_valid_configuration_is_named(empty_home, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("version: 1\nmodels:\n  mine: {engine: fake}\n")
    for arguments in ([str(file)], ["--config", str(file)]):
        told = empty_home.bain("config", "validate", *arguments)
        assert (told.returncode, told.stdout) == (0, f"{file} is valid\n")
    told = empty_home.bain("config", "validate", env={"BAIN_CONFIG": str(file)})
    assert told.stdout == f"{file} is valid\n"
    assert "mine" in json.loads(empty_home.bain("config", "validate", str(file), "--json").stdout)["models"]


def test_a_mistake_is_told_with_its_place_and_exit_code_3(empty_home, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("version: 1\nmodels:\n  mine:\n    engine: fake\n    adaptor: ./x\n")
    told = empty_home.bain("config", "validate", str(file))
    assert told.returncode == 3
    assert told.stderr.startswith(f"error: {file}:5:5: unknown key 'adaptor'")
    assert "did you mean 'adapter'?" in told.stderr
    told = empty_home.bain("config", "validate", str(file), "--json")
    assert told.returncode == 3
    assert json.loads(told.stdout)["valid"] is False


def test_without_a_file_the_built_in_settings_apply(empty_home) -> None:
    assert "built-in settings" in empty_home.bain("config", "validate").stdout


def test_what_is_shown_fits_the_schema_and_holds_no_secret(empty_home, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("gateway: {api_keys: [sesame]}\n")
    schema = json.loads(empty_home.bain("config", "schema").stdout)
    shown = empty_home.bain("config", "show", "--config", str(file)).stdout
    assert "sesame" not in shown
    assert json.loads(shown)["gateway"]["port"] == 8484
    jsonschema.Draft202012Validator.check_schema(schema)


def test_env_sync_builds_what_a_model_needs_and_ls_lists_it(home) -> None:
    built = home.bain("env", "sync", "fake")
    assert built.returncode == 0, built.stderr
    name, path = built.stdout.strip().split(": ")
    assert (name, Path(path).is_dir()) == ("fake", True)
    listed = json.loads(home.bain("env", "ls", "--json").stdout)
    assert Path(path).name in [environment["digest"] for environment in listed]
    assert Path(path).name[:12] in home.bain("env", "ls").stdout


def test_env_sync_builds_the_others_where_one_cannot_be_built(home, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    broken = {"packages": ["bainmarie-has-no-such-package"]}
    models = {"odd": {"engine": "fake", "environment": "odd"}, "well": {"engine": "fake"}}
    file.write_text(json.dumps({"version": 1, "models": models, "environments": {"odd": broken}}))
    told = home.bain("env", "sync", "odd", "well", "--config", str(file))
    assert told.returncode == 5, told.stderr
    assert told.stdout.startswith("well: ")
    assert told.stderr.count("bainmarie-has-no-such-package was not found") == 1


def test_env_ls_of_an_empty_home_says_how_one_comes_to_be(empty_home) -> None:
    told = empty_home.bain("env", "ls")
    assert (told.returncode, told.stdout) == (0, "")
    assert "bain env sync" in told.stderr


def test_an_unknown_model_has_no_environment(home) -> None:
    assert home.bain("env", "sync", "nobody").returncode == 4


def test_an_api_key_is_found_in_the_configuration_or_the_environment(home, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(json.dumps({"gateway": {"api_keys": ["sesame"]}, "models": {"fake": {"engine": "fake"}}}))
    assert home.bain("up", "--detach", "--port", "0", "--config", str(file)).returncode == 0
    try:
        assert home.bain("status", env={"BAIN_CONFIG": str(file)}).returncode == 0
        assert home.bain("status", env={"BAIN_API_KEY": "sesame"}).returncode == 0
        refused = home.bain("status", env={"BAIN_API_KEY": "wrong"})
        assert refused.returncode == 2
        assert "API key" in refused.stderr
        address = json.loads((home.path / "gateway.json").read_text())["address"]
        assert home.bain("status", "--url", address, env={"BAIN_API_KEY": "sesame"}).returncode == 0
    finally:
        assert home.bain("down").returncode == 0


def test_a_url_where_nobody_answers_is_unreachable(home) -> None:
    told = home.bain("status", "--url", "http://127.0.0.1:9")
    assert told.returncode == 7
    assert "no gateway answers at http://127.0.0.1:9" in told.stderr


def test_a_reader_that_leaves_early_sees_no_traceback(home) -> None:
    import subprocess
    import sys

    command = f"{sys.executable} -m bainmarie config schema | head -c 10 > /dev/null; echo ${{PIPESTATUS[0]}}"
    told = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=home.environ, check=True)
    assert told.stderr == ""
    assert told.stdout.strip() in ("0", "141")  # 0: all of it fitted into the pipe

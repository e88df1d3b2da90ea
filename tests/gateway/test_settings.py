"""bain.yaml: what is accepted, what it means, and one line with the place for everything else."""

from __future__ import annotations

import json
import math
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from bainmarie.carried import demo_model
from bainmarie.errors import ConfigurationError
from bainmarie.settings import Settings, bain_home, config_path, json_schema, load_settings, parse_settings
from bainmarie.settings.__main__ import with_table

EXAMPLE = """
# yaml-language-server: $schema=...
version: 1
gateway: {host: 127.0.0.1, port: 8484, api_keys: []}
defaults: {keep_alive: 30m, environment: auto}
models:
  demo: {}                                            # built in
  qwen:   {model: Qwen/Qwen3-8B}                      # hub id or path
  alice:  {model: Qwen/Qwen3-8B, adapter: ./out/alice}   # served by qwen's worker
  merged: {model: ./merged/coder-14b, quantization: nf4} # none | int8 | nf4 | fp4
  plain:  {model: ./base-7b, prompt: plain}           # base model: no chat template
  legacy: {model: ./old, environment: old, system_prompt: "You are brief.", keep_alive: forever}
  mine:   {engine: command, command: ["python3", "serve.py", "--port", "{port}"], health: /health}
environments:
  old: {python: "3.10", packages: ["torch==2.2.*", "transformers==4.37.2"]}
  own: {python_executable: ~/venvs/own/bin/python}
tools:
  approval: ask                                       # ask | allow | deny
  rules: [{tool: read_file, action: allow}, {tool: "run_shell", action: ask}]
  max_iterations: 20
  mcp_servers: {files: {command: [npx, "@scope/server", "."]}, web: {url: "http://127.0.0.1:9901/mcp"}}
  tool_server: {url: "http://127.0.0.1:8763", token: "..."}
"""

WRONG = [
    ("models:\n  qwen: {modle: x}\n", "2:10: unknown key 'modle' in models.qwen; did you mean 'model'?"),
    ("modles: {}", "1:1: unknown key 'modles'; did you mean 'models'?"),
    ("gateway:\n  zzzz: 1", "2:3: unknown key 'zzzz' in gateway; known keys: host, port, api_keys"),
    ("gateway: {port: '1'}", "1:17: gateway.port: expected a whole number, found the text '1'"),
    ("gateway: {port: 1.5}", "1:17: gateway.port: expected a whole number, found the number 1.5"),
    ("gateway: {port: 70000}", "1:17: gateway.port: must be less than or equal to 65535, found the number 70000"),
    ("gateway: {api_keys: a}", "1:21: gateway.api_keys: expected a list, found the text 'a'"),
    (
        "gateway:\n  api_keys:\n    - 12\n",
        "3:7: gateway.api_keys[0]: expected text, found the number 12; put it in quotes",
    ),
    (
        "environments:\n  a: {python: 3.10}",
        "2:15: environments.a.python: expected text, found the number 3.10; put it in quotes",
    ),
    ("models: {a: {}}", "1:10: models.a needs the key 'model': a directory or a hub id"),
    ("models:\n  a:\n", "2:3: models.a: expected keys with values, found nothing"),
    ("models: {a b: {}}", "1:10: the name 'a b' is not allowed: use letters, digits and . _ - : /"),
    ("models: {1: {}}", "1:10: the key 1 must be text: put it in quotes"),
    ("models: {a: {model: ''}}", "1:21: models.a.model: must not be empty"),
    (
        "models: {a: {model: x, keep_alive: 3x}}",
        "1:36: models.a.keep_alive: expected a duration such as 30m, 90s, 2h, 0 or \"forever\", found the text '3x'",
    ),
    (
        "models: {a: {model: x, keep_alive: -1}}",
        '1:36: models.a.keep_alive: expected a duration such as 30m, 90s, 2h, 0 or "forever", found the number -1',
    ),
    (
        "models: {a: {model: x, quantization: nf5}}",
        "1:38: models.a.quantization: expected none, int8, int4, nf4 or fp4, found the text 'nf5'; did you mean 'nf4'?",
    ),
    (
        "models: {a: {model: x, device: gpu}}",
        "1:32: models.a.device: expected auto, cpu, mps, cuda or cuda:N, found the text 'gpu'",
    ),
    (
        "models: {a: {model: x, trust_remote_code: 'yes'}}",
        "1:43: models.a.trust_remote_code: expected true or false, found the text 'yes'",
    ),
    (
        "models: {a: {engine: command, command: [x]}}",
        "1:40: models.a.command: it needs '{port}' or '{socket}': where the server shall listen",
    ),
    (
        'models: {a: {engine: command, command: ["{port}"], environment: auto}}',
        "1:65: models.a: what a command needs is not known: name an environment, or leave the key out",
    ),
    ("models: {a: {engine: command}}", "1:22: models.a: the engine 'command' needs the key 'command'"),
    (
        "models: {a: {model: x, command: [y]}}",
        "1:24: models.a.command: only the engine 'command' has this key",
    ),
    (
        "environments:\n  a:\n    python_executable: x\n    packages: []",
        "4:5: environments.a has both 'python_executable' and 'packages': an existing interpreter is never changed",
    ),
    ("environments: {auto: {}}", "1:16: the environment name 'auto' is taken: it stands for inferred packages"),
    ("version: 2", "1:10: version: expected 1, found the number 2"),
    ("- 1", "1:1: the file: expected keys with values, found a list"),
    ("hello", "1:1: the file: expected keys with values, found the text 'hello'"),
    ("tools: {rules: [{tool: a}]}", "1:17: tools.rules[0] needs the key 'action'"),
    (
        "tools: {rules: [{tool: a, action: alow}]}",
        "1:35: tools.rules[0].action: expected ask, allow or deny, found the text 'alow'; did you mean 'allow'?",
    ),
    (
        "tools: {max_iterations: 0}",
        "1:25: tools.max_iterations: must be greater than or equal to 1, found the number 0",
    ),
    ("tools: {mcp_servers: {a: {}}}", "1:23: tools.mcp_servers.a needs either 'command' or 'url'"),
    ("tools: {mcp_servers: {a: {urll: x}}}", "1:27: unknown key 'urll' in tools.mcp_servers.a; did you mean 'url'?"),
    ("tools: {tool_server: {token: x}}", "1:22: tools.tool_server needs the key 'url'"),
]
"""(text, message after the file's name): both the loader and the JSON Schema refuse these."""

WRONG_FOR_THE_LOADER = [
    (
        "models: {a: {model: x, environment: old}}\nenvironments: {odl: {}}",
        "1:37: models.a.environment: there is no environment 'old'; did you mean 'odl'?",
    ),
    (
        "models: {a: {model: x, device: cpu, device_map: auto}}",
        "1:37: models.a has both 'device_map' and 'device': the map needs `device: auto`",
    ),
    ("defaults: {environment: q}", "1:25: defaults.environment: there is no environment 'q'; known: auto"),
    ("a: 1\na: 1", '2:1: duplicate key "a"'),
    ("models:\n  a: {model: x}\n  a: {model: y}\n", '3:3: duplicate key "a"'),
    ("a: [1\nb: 2", "2:2: not valid YAML: expected ',' or ']', but got ':'"),
    ("a:\n\t- b", "2:1: not valid YAML: found character '\\t' that cannot start any token"),
    ("a: *q", "1:4: not valid YAML: found undefined alias 'q'"),
    ("a: 1\n---\nb: 1", "2:1: not valid YAML: but found another document"),
]


def refused(text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse_settings(text, Path("/etc/bain.yaml"))
    assert caught.value.exit_code == 3
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(("text", "message"), WRONG + WRONG_FOR_THE_LOADER)
def test_wrong_files_are_refused_in_one_line_with_the_place(text: str, message: str) -> None:
    assert refused(text) == f"/etc/bain.yaml:{message}"


def test_the_first_problem_in_the_file_is_told_and_the_others_are_counted() -> None:
    text = "gateway:\n  prt: 1\nmodels:\n  b: {model: 1}\n  a: {modle: 1}\n"
    assert refused(text) == "/etc/bain.yaml:2:3: unknown key 'prt' in gateway; did you mean 'port'? (and 2 more)"


def test_the_place_of_a_key_that_was_merged_in_is_where_it_was_merged() -> None:
    text = "models:\n  a: &a {model: x, dtype: bfloat16}\n  b:\n    <<: *a\n    adaptr: y\n"
    assert refused(text) == "/etc/bain.yaml:5:5: unknown key 'adaptr' in models.b; did you mean 'adapter'?"
    merged = parse_settings(text.replace("adaptr", "adapter"), Path("/etc/bain.yaml")).catalog()
    assert merged.get("b").dtype == "bfloat16"


@pytest.mark.parametrize("text", ["", "# only a comment\n", "{}", "version: 1"])
def test_an_empty_file_means_the_built_in_settings(text: str) -> None:
    assert parse_settings(text, Path("/etc/bain.yaml")).model_dump() == Settings().model_dump()


def test_the_example_of_the_design_is_accepted_and_understood() -> None:
    catalog = parse_settings(EXAMPLE, Path("/etc/bain.yaml")).catalog()
    assert list(catalog.models) == [
        *("demo", "demo-pirate", "demo-pirate-merged", "qwen", "alice", "merged", "plain", "legacy", "mine"),
    ]
    assert catalog.get("qwen").model == "Qwen/Qwen3-8B"
    assert catalog.get("qwen").keep_alive == 1800
    assert catalog.get("alice").adapter == "/etc/out/alice"
    assert catalog.sharing(catalog.get("alice")) == (catalog.get("qwen"), catalog.get("alice"))
    assert catalog.get("merged").model == "/etc/merged/coder-14b"
    assert catalog.get("merged").quantization == "nf4"
    assert catalog.get("plain").prompt == "plain"
    assert catalog.get("legacy").keep_alive is None
    assert catalog.get("legacy").environment == "old"
    assert catalog.get("mine").command == ("python3", "serve.py", "--port", "{port}")
    assert catalog.environments["old"].python == "3.10"
    assert catalog.environments["old"].packages == ("torch==2.2.*", "transformers==4.37.2")
    assert catalog.environments["own"].python_executable == str(Path("~/venvs/own/bin/python").expanduser())


def test_what_is_not_served_yet_is_not_silent() -> None:
    notices = parse_settings(EXAMPLE, Path("/etc/bain.yaml")).notices()
    assert [notice.split(":")[0] for notice in notices] == ["tools.mcp_servers", "tools.tool_server"]
    assert parse_settings("", Path("/etc/bain.yaml")).notices() == []


def test_an_open_address_without_keys_is_not_silent() -> None:
    (notice,) = parse_settings("gateway: {host: 0.0.0.0}", Path("/x")).notices()
    assert "api_keys is empty" in notice
    assert parse_settings("gateway: {host: 0.0.0.0, api_keys: [a]}", Path("/x")).notices() == []


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("30m", 1800),
        ("90s", 90),
        ("2h", 7200),
        ("1d", 86400),
        ("0.5s", 0.5),
        ("0", 0),
        ("45", 45),
        ("forever", math.inf),
    ],
)
def test_durations(written: str, seconds: float) -> None:
    settings = parse_settings(f"defaults: {{keep_alive: {written}}}", Path("/x"))
    assert settings.defaults.keep_alive == seconds
    assert settings.catalog().get("demo").keep_alive == (None if seconds == math.inf else seconds)


def test_a_model_is_a_path_where_it_is_written_as_one_or_exists(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    names = ["./gone", "../gone", "/gone", "~/gone", "weights", "Qwen/Qwen3-8B"]
    text = json.dumps({"models": {f"m{index}": {"model": name} for index, name in enumerate(names)}})
    catalog = parse_settings(text, tmp_path / "bain.yaml").catalog()
    assert [catalog.get(f"m{index}").model for index in range(len(names))] == [
        str(tmp_path / "gone"),
        str(tmp_path.parent / "gone"),
        "/gone",
        str(Path.home() / "gone"),
        str(tmp_path / "weights"),
        "Qwen/Qwen3-8B",
    ]


def test_a_chat_template_is_a_text_or_a_file_beside_the_configuration(tmp_path: Path) -> None:
    text = "models: {a: {model: o/x, chat_template: t.jinja}, b: {model: o/x, chat_template: '{{ messages }}'}}"
    (tmp_path / "bain.yaml").write_text(text)
    catalog = load_settings(tmp_path / "bain.yaml", {}).catalog()
    assert catalog.get("a").chat_template == str(tmp_path / "t.jinja")
    assert catalog.get("b").chat_template == "{{ messages }}"
    assert catalog.get("a").worker_key == catalog.get("b").worker_key


def test_an_interpreter_that_is_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "python").symlink_to("/usr/bin/env")
    settings = parse_settings("environments: {own: {python_executable: ./python}}", tmp_path / "bain.yaml")
    assert settings.catalog().environments["own"].python_executable == str(tmp_path / "python")


def test_the_demo_models_are_always_there() -> None:
    catalog = Settings().catalog()
    demo, pirate, merged = (catalog.get(name) for name in ("demo", "demo-pirate", "demo-pirate-merged"))
    assert demo.model == str(demo_model("demo"))
    assert demo.adapter is None
    assert pirate.adapter == str(demo_model("demo-pirate"))
    assert catalog.sharing(pirate) == (demo, pirate)
    assert merged.model == str(demo_model("demo-pirate-merged"))


def test_a_built_in_model_is_changed_key_by_key_and_its_adapter_stays_on_its_worker() -> None:
    catalog = parse_settings("models: {demo: {dtype: float32, system_prompt: Hi}}", Path("/x/bain.yaml")).catalog()
    assert catalog.get("demo").model == str(demo_model("demo"))
    assert catalog.get("demo").dtype == catalog.get("demo-pirate").dtype == "float32"
    assert catalog.get("demo-pirate").system_prompt is None
    assert catalog.sharing(catalog.get("demo")) == (catalog.get("demo"), catalog.get("demo-pirate"))


def test_a_built_in_model_can_be_replaced() -> None:
    catalog = parse_settings("models: {demo: {model: ./mine, adapter: ./a}}", Path("/x/bain.yaml")).catalog()
    assert (catalog.get("demo").model, catalog.get("demo").adapter) == ("/x/mine", "/x/a")
    assert catalog.get("demo-pirate").model == str(demo_model("demo"))


def test_settings_cannot_be_changed() -> None:
    settings = Settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.gateway.port = 1


def test_where_the_file_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    assert config_path(None, {}, home) is None
    (home / "bain.yaml").touch()
    assert config_path(None, {}, home) == home / "bain.yaml"
    (here / "bain.yaml").touch()
    assert config_path(None, {}, home) == here / "bain.yaml"
    assert config_path(None, {"BAIN_CONFIG": "b.yaml"}, home) == here / "b.yaml"
    assert config_path(Path("/a.yaml"), {"BAIN_CONFIG": "b.yaml"}, home) == Path("/a.yaml")


def test_a_named_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no such file"):
        load_settings(tmp_path / "bain.yaml", {})
    assert load_settings(None, {}).file is None


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "bain.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_settings(tmp_path / "bain.yaml", {})
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_settings(tmp_path, {})


def test_home_is_bain_home_or_the_platforms_data_folder(tmp_path: Path) -> None:
    assert bain_home({"BAIN_HOME": str(tmp_path)}) == tmp_path
    assert bain_home({}).name == "bainmarie"


def test_schema_accepts_the_example_and_refuses_what_the_loader_refuses() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    validator = jsonschema.Draft202012Validator(schema)
    plain = YAML(typ="safe", pure=True)
    validator.validate(plain.load(EXAMPLE))
    assert [text for text, _ in WRONG if validator.is_valid(plain.load(text))] == []


def test_every_key_has_a_description() -> None:
    schema = json_schema()
    shapes = [schema, *schema["$defs"].values()]
    missing = [
        f"{shape['title']}.{name}"
        for shape in shapes
        for name, field in shape.get("properties", {}).items()
        if "description" not in field and "$ref" not in field
    ]
    assert missing == []


def test_the_documentation_has_every_key() -> None:
    file = Path(__file__).parents[2] / "docs" / "configuration.md"
    text = file.read_text(encoding="utf-8")
    assert text == with_table(text), "run: python -m bainmarie.settings docs/configuration.md"
    assert "| `models.NAME.model` | text |" in text


def test_the_documentations_example_is_accepted() -> None:
    file = Path(__file__).parents[2] / "docs" / "configuration.md"
    example = file.read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    assert "qwen" in parse_settings(example, Path("/etc/bain.yaml")).catalog().models

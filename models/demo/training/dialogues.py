"""Makes dialogues: what a user says, which tools are called, what they give back, what the assistant answers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from phrases import (
    ABILITIES,
    CALCULATE,
    CHAIN_END,
    CHAIN_FIRST,
    CHAIN_JOIN,
    CHAIN_STEP,
    COPY_FILE,
    CUSTOM,
    CUSTOM_BARE,
    CUSTOM_NATURAL,
    FRAMES,
    JOIN_TWO,
    LIST,
    LIST_HERE,
    NUMBER_STEP,
    OPERATION,
    PAIR,
    READ,
    READ_TIMES,
    RUN,
    SMALL_TALK,
    SYSTEMS,
    TIME,
    TIME_LOCAL,
    UNKNOWN,
    WRITE,
    WRITE_RESULT,
)
from values import DAYS, ZONES, Values

BUILT_IN = {
    "calculator": ("expression",),
    "current_time": ("place",),
    "list_dir": ("path",),
    "read_file": ("path",),
    "write_file": ("path", "content"),
    "run_shell": ("command",),
}
NO_TOOL = "I have no tool for that."


@dataclass(frozen=True)
class Call:
    """A tool call and what the tool gives back."""

    name: str
    arguments: dict[str, Any]
    result: str

    @property
    def text(self) -> str:
        arguments = json.dumps(self.arguments, ensure_ascii=False)
        return f'<tool_call>\n{{"name": "{self.name}", "arguments": {arguments}}}\n</tool_call>'


@dataclass(frozen=True)
class Task:
    """One request of the user: rounds of calls, then an answer."""

    ask: str
    rounds: list[list[Call]]
    answer: str
    tools: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What the assistant says before the calls of each round; nothing where the list has ended."""


@dataclass(frozen=True)
class Turn:
    """A part of the rendered dialogue; `learn` marks what the assistant says."""

    text: str
    learn: bool = False


@dataclass(frozen=True)
class Dialogue:
    kind: str
    system: str
    tools: dict[str, tuple[str, ...]]
    turns: list[Turn]

    def head(self) -> str:
        """The system block."""
        parts = [self.system] if self.system else []
        if self.tools:
            parts.append("\n".join(["Tools:", *(f"{name}({', '.join(keys)})" for name, keys in self.tools.items())]))
        text = "\n\n".join(parts)
        return f"<|im_start|>system\n{text}<|im_end|>\n" if parts else ""


def user(text: str) -> Turn:
    return Turn(f"<|im_start|>user\n{text}<|im_end|>\n")


def results(calls: list[Call]) -> Turn:
    return Turn("".join(f"<tool_response>\n{call.result}\n</tool_response>\n" for call in calls))


def assistant(text: str, learn: bool = True) -> list[Turn]:
    return [Turn("<|im_start|>assistant\n"), Turn(text + "<|im_end|>", learn), Turn("\n")]


# What the tools give back


def shown(value: Fraction) -> str:
    """A number the way the calculator writes it."""
    if value.denominator == 1:
        return str(value.numerator)
    return repr(round(float(value), 10))


def operate(left: Fraction, sign: str, right: Fraction) -> Fraction:
    return {"+": left + right, "-": left - right, "*": left * right, "/": left / (right or 1)}[sign]


def calculation(v: Values, left: str, sign: str, right: str) -> Call:
    value = shown(operate(Fraction(left), sign, Fraction(right)))
    result = "Error: division by zero" if sign == "/" and Fraction(right) == 0 else value
    return Call("calculator", {"expression": f"{left} {sign} {right}"}, result)


def moment(v: Values) -> str:
    clock = f"{v.rng.randint(0, 23):02}:{v.rng.randint(0, 59):02}"
    date = f"{v.rng.randint(2024, 2029)}-{v.rng.randint(1, 12):02}-{v.rng.randint(1, 28):02}"
    return f"{clock} on {v.pick(DAYS)} {date}"


def told(call: Call) -> str:
    """The sentence that tells a call's result."""
    result = call.result
    for start, words in (
        ("Error: ", "That failed: "),
        ("Denied: ", "I did not do that: "),
        ("Interrupted: ", "That was stopped: "),
    ):
        if result.startswith(start):
            return words + result.removeprefix(start)
    match call.name:
        case "calculator":
            return f"The result is {result}."
        case "current_time":
            return f"It is {result}."
        case "list_dir":
            return "It is empty." if result == "(empty)" else f"It contains:\n{result}"
        case "read_file":
            return f"It says:\n{result}" if result else "It is empty."
        case "write_file":
            return f"I w{result[1:]}"
        case "run_shell":
            if result == "exit code 0":
                return "The command ran and printed nothing."
            if result.startswith("exit code 0\n"):
                return f"The command printed:\n{result.removeprefix('exit code 0').strip()}"
            return f"The command failed with {result}"
    return f"The tool answered:\n{result}"


# How the user says it


def phrase(v: Values, options: list[str], **parts: str) -> str:
    """One of the phrasings, in one of the frames (please, can you, ...), with or without a capital and a full stop."""
    text = v.pick(options)
    if text[0].islower() and v.chance(0.45):
        frame = v.pick(FRAMES)
        if text.startswith(("what", "which", "how", "is ", "who", "when")):
            frame = v.pick(
                ("{}", "please tell me {}", "tell me {}", "hey, {}", "ok, {}", "hi, {}", "now {}", "can you tell me {}")
            )
        text = frame.format(text.replace("{", "{{").replace("}", "}}")) if "{}" in frame else text
        text = text.replace("{{", "{").replace("}}", "}")
    question = text.lower().startswith(
        ("what", "which", "how", "is ", "who", "when", "can ", "could ", "would ", "will ")
    )
    roll = v.rng.random()
    if roll < 0.72:
        text = text[0].upper() + text[1:]
    elif roll < 0.74:
        text = "".join(part if part.startswith("{") else part.upper() for part in _split(text))
    if not text.endswith(("?", "!", ".", ":", "```")) and v.chance(0.75 if not text.endswith("c}") else 0.3):
        text += "?" if question and v.chance(0.9) else v.pick("....!")
    return text.format(**parts)


def _split(text: str) -> list[str]:
    parts, rest = [], text
    while "{" in rest:
        before, _, rest = rest.partition("{")
        name, _, rest = rest.partition("}")
        parts += [before, "{" + name + "}"]
    return [*parts, rest]


def quoted(v: Values, text: str) -> str:
    """A content as users write it: mostly in quotation marks."""
    roll = v.rng.random()
    if roll < 0.6 and '"' not in text:
        return f'"{text}"'
    if roll < 0.85 and "'" not in text:
        return f"'{text}'"
    return text if roll < 0.92 or '"' in text else f"`{text}`"


# Single calls


def calculate(v: Values) -> Task:
    roll = v.rng.random()
    if roll < 0.12:
        return _expression(v)
    left = v.decimal() if v.chance(0.08) else v.number()
    right = v.decimal() if v.chance(0.05) else v.number()
    sign = v.pick("+-**/")
    if sign == "/" and v.chance(0.6):
        left = str(int(Fraction(right)) * int(v.number(3)) or 1)
    if v.chance(0.02):
        sign, right = "/", "0"
    if roll < 0.6:
        space, written = v.pick((" ", " ", " ", "")), sign
        if sign == "*" and v.chance(0.12):
            space, written = " ", v.pick(("x", "×"))
        elif sign == "/" and v.chance(0.08):
            space, written = " ", v.pick(("÷", ":"))
        call = calculation(v, left, sign, right)
        if not space:
            call = replace(call, arguments={"expression": f"{left}{sign}{right}"})
        return Task(phrase(v, CALCULATE, e=f"{left}{space}{written}{space}{right}"), [[call]], told(call))
    if roll < 0.66:
        text, left, sign, right = v.pick(
            (
                ("{a} squared", left, "*", left),
                ("the square of {a}", left, "*", left),
                ("half of {a}", left, "/", "2"),
                ("twice {a}", left, "*", "2"),
                ("double {a}", left, "*", "2"),
                ("a third of {a}", left, "/", "3"),
            )
        )
        call = calculation(v, left, sign, right)
        return Task(phrase(v, CALCULATE[:8], e=text.format(a=left)), [[call]], told(call))
    noun, verb = v.chance(0.5), v.chance(0.5)
    call = calculation(v, left, sign, right)
    options = OPERATION[sign][0 if noun else 1]
    text = v.pick(options).format(a=left, b=right)
    return Task(
        phrase(v, CALCULATE[:8] if noun else ["{e}"], e=text) if noun or verb else phrase(v, [text]),
        [[call]],
        told(call),
    )


def _expression(v: Values) -> Task:
    a, b, c = v.number(4), v.number(3), v.number(2)
    one, two = v.pick("+-*"), v.pick("+-*")
    text = v.pick(
        (f"({a} {one} {b}) {two} {c}", f"{a} {one} {b} {two} {c}", f"{a} {one} ({b} {two} {c})", f"{a}{one}{b}{two}{c}")
    )
    if v.chance(0.25):
        text, spoken = v.pick(
            (
                (f"{a} * {c} / 100", f"{c}% of {a}"),
                (f"{a} * {c} / 100", f"{c} percent of {a}"),
                (f"-{a} + {b}",) * 2,
                (f"{c} ** 2",) * 2,
            )
        )
    else:
        spoken = text
    result = shown(Fraction(a) * Fraction(c) / 100) if "100" in text and "of" in spoken else shown(Fraction(eval(text)))
    call = Call("calculator", {"expression": text}, result)
    return Task(phrase(v, CALCULATE[:8], e=spoken), [[call]], told(call))


def time(v: Values) -> Task:
    if v.chance(0.2):
        call = Call("current_time", {"place": "local"}, f"{moment(v)} ({v.pick(ZONES)})")
        return Task(phrase(v, TIME_LOCAL), [[call]], told(call))
    place = v.city() if v.chance(0.93) else v.pick(ZONES)
    call = Call("current_time", {"place": place}, f"{moment(v)} ({v.pick(ZONES)})")
    return Task(phrase(v, TIME, c=place), [[call]], told(call))


def list_folder(v: Values) -> Task:
    result = "\n".join(v.names()) if v.chance(0.9) else "(empty)"
    if v.chance(0.3):
        call = Call("list_dir", {"path": "."}, result)
        return Task(phrase(v, LIST_HERE), [[call]], told(call))
    folder = v.folder()
    call = Call("list_dir", {"path": folder}, result)
    spoken = folder + ("/" if v.chance(0.1) else "")
    if spoken.endswith("/"):
        call = replace(call, arguments={"path": spoken})
    return Task(phrase(v, LIST, p=quoted(v, spoken) if v.chance(0.1) else spoken), [[call]], told(call))


def read(v: Values) -> Task:
    path = v.file()
    call = Call("read_file", {"path": path}, v.text() if v.chance(0.98) else "")
    return Task(phrase(v, READ, p=quoted(v, path) if v.chance(0.1) else path), [[call]], told(call))


def written(path: str, content: str) -> Call:
    size = len(content.encode())
    return Call(
        "write_file", {"path": path, "content": content}, f"Wrote {size} byte{'' if size == 1 else 's'} to {path}."
    )


def write(v: Values) -> Task:
    path, content = v.file(), v.content()
    if v.chance(0.12):  # "hello" to hello.txt
        content = path.split("/")[-1].split(".")[0] or content
    call = written(path, content)
    return Task(phrase(v, WRITE, p=path, w=quoted(v, content)), [[call]], told(call))


def run(v: Values) -> Task:
    command = v.command()
    roll = v.rng.random()
    if roll < 0.4:
        result = "exit code 0"
    elif roll < 0.85:
        result = "exit code 0\n" + (v.content() if v.chance(0.6) else "\n".join(v.names()))
    else:
        result = f"exit code {v.pick((1, 1, 2, 126, 127))}" + (f"\n{v.word()}: {v.words(5)}" if v.chance(0.8) else "")
    call = Call("run_shell", {"command": command}, result)
    marks = v.pick(
        ("{}", "{}", "{}", "`{}`", '"{}"' if '"' not in command else "{}", "'{}'" if "'" not in command else "{}")
    )
    return Task(phrase(v, RUN, c=marks.format(command)), [[call]], told(call))


SINGLE: list[Callable[[Values], Task]] = [calculate, calculate, time, list_folder, read, write, write, run, run]


# Chains of calculations


def chain(v: Values, least: int = 2, most: int = 10) -> Task:
    count = least if least == most else min(v.rng.randint(least, most), v.rng.randint(least, most))
    most_digits = v.pick((1, 2, 2, 2, 3))
    start = v.number(v.pick((2, 2, 3)))
    value, steps, calls = Fraction(start), [], []
    for _ in range(count):
        for _ in range(50):
            sign = v.pick("++--**/")
            if steps and v.chance(0.2):
                sign = v.pick(steps)[0]
            operand = v.number(most_digits if sign != "*" else min(2, most_digits))
            if steps and v.chance(0.08):
                operand = v.pick(steps)[1]
            new = operate(value, sign, Fraction(operand))
            if sign == "/" and ((value % int(operand) != 0 and v.chance(0.9)) or operand == "1"):
                continue
            if abs(new) < 10**8 and len(shown(new)) < 11 and (new >= 0 or v.chance(0.4)):
                break
        else:
            break
        calls.append([calculation(v, shown(value), sign, operand)])
        steps.append((sign, operand))
        value = Fraction(calls[-1][0].result)
    plan = [calls[0][0].arguments["expression"], *(f"{sign} {operand}" for sign, operand in steps[1:])]
    return Task(_chain_text(v, start, steps), calls, f"The result is {shown(value)}.", notes=remaining(plan))


def remaining(plan: list[str]) -> list[str]:
    """The steps that are left before each round: every turn is its predecessor without the first step."""
    return [f"{'Left' if done else 'Steps'}: {'; '.join(plan[done:])}." for done in range(len(plan))]


def _chain_text(v: Values, start: str, steps: list[tuple[str, str]]) -> str:
    style = v.rng.random()
    if style < 0.55:
        parts, rest = [v.pick(CHAIN_FIRST).format(start)], steps
    else:
        sign, operand = steps[0]
        noun = v.chance(0.4)
        text = v.pick(OPERATION[sign][0 if noun else 1]).format(a=start, b=operand)
        parts, rest = [v.pick(("what is ", "calculate ", "compute ", "take ")) + text if noun else text], steps[1:]
    fixed = v.rng.randint(0, 2) if v.chance(0.6) else None
    for sign, operand in rest:
        options = CHAIN_STEP[sign]
        parts.append((options[fixed] if fixed is not None else v.pick(options)).format(operand))
    style = v.rng.random()
    if style < 0.12 and len(parts) > 2:
        lines = [
            f"{number}{mark} {part[0].upper() + part[1:]}"
            for mark in (v.pick(NUMBER_STEP),)
            for number, part in enumerate(parts, 1)
        ]
        text = v.pick(("Do these steps:\n", "Please calculate:\n", "", "Steps:\n")) + "\n".join(lines)
    elif style < 0.4:
        text = (
            ". ".join(
                part[0].upper() + part[1:]
                for part in (parts if v.chance(0.5) else [parts[0], *("then " + p for p in parts[1:])])
            )
            + "."
        )
    else:
        join = v.pick(CHAIN_JOIN)
        last = v.pick((join, ", and then ", " and then ", ", and finally ", ", finally ")) if v.chance(0.4) else join
        text = (join.join(parts[:-1]) + last + parts[-1] if parts[:-1] else parts[0]) + v.pick((".", ".", "", "!"))
        if v.chance(0.8):
            text = text[0].upper() + text[1:]
    if v.chance(0.2):
        text = v.pick(("Please ", "Can you ", "Could you ", "Now ", "Hi! ")) + (text[0].lower() + text[1:])
    if v.chance(0.35):
        text = text.rstrip(".!") + (". " if "\n" not in text else "\n") + v.pick(CHAIN_END)
    return text


# Several calls at once, and calls that need an earlier result


def pair(v: Values) -> Task:
    """Two or three calls in one turn."""
    count = 2 if v.chance(0.88) else 3
    if v.chance(0.4):
        maker = v.pick((read, calculate, time, list_folder, read, calculate))
        calls = [maker(v).rounds[0][0] for _ in range(count)]
        name = calls[0].name
        if name == "calculator":
            calls = [calculation(v, v.number(4), v.pick("+-*"), v.number(4)) for _ in calls]
        items = [next(iter(call.arguments.values())) for call in calls]
        if not any(item in (".", "local") for item in items):
            if name == "calculator" and v.chance(0.3):
                text = (
                    f"What is {items[0]}"
                    + "".join(f"{v.pick((' and', ', and'))} what is {item}" for item in items[1:])
                    + "?"
                )
            else:
                text = phrase(
                    v,
                    PAIR[name],
                    x=", ".join(items[:-1])
                    + v.pick((" and ", " and ", ", ") if count == 2 else (" and ", ", and "))
                    + items[-1],
                )
            return Task(text, [calls], "\n".join(told(call) for call in calls))
    tasks = [v.pick(SINGLE)(v) for _ in range(count)]
    texts = [task.ask.rstrip(".!") for task in tasks]
    for index in range(1, len(texts)):
        if v.chance(0.7):
            texts[index] = texts[index][0].lower() + texts[index][1:]
    text = texts[0]
    for more in texts[1:]:
        text = text.rstrip("?") + v.pick(JOIN_TWO) + more
    calls = [task.rounds[0][0] for task in tasks]
    return Task(text + v.pick((".", "", ".")), [calls], "\n".join(told(call) for call in calls))


def mixed(v: Values) -> Task:
    """Calls of several tools, each needing the result before."""
    return v.pick(
        (
            _sequence,
            _sequence,
            _read_calculate,
            _read_calculate,
            _calculate_write,
            _calculate_write,
            _list_read,
            _copy,
            _time_write,
            _read_two,
            _write_read,
            _chain_write,
        )
    )(v)


def _answers(rounds: list[list[Call]]) -> str:
    """What the last round gave."""
    return "\n".join(told(call) for call in rounds[-1])


def _sequence(v: Values) -> Task:
    """Two or three requests that do not need each other, but shall be done one after the other."""
    tasks = [v.pick(SINGLE)(v) for _ in range(2 if v.chance(0.8) else 3)]
    join = v.pick((", then ", " and then ", ". Then ", "; then ", ", and then ", ". After that, "))
    texts = [task.ask.rstrip(".!?") for task in tasks]
    text = join.join([texts[0], *(words[0].lower() + words[1:] for words in texts[1:])])
    rounds = [calls for task in tasks for calls in task.rounds]
    return Task(text + v.pick((".", "", ".")), rounds, _answers(rounds))


def _read_calculate(v: Values) -> Task:
    path, number, sign, operand = v.file(), v.number(5), v.pick("++-*"), v.number(3)
    rounds = [[Call("read_file", {"path": path}, number)], [calculation(v, number, sign, operand)]]
    step = v.pick(READ_TIMES[sign]).format(operand)
    opening = v.pick(
        (
            "read the number in {}",
            "read {}",
            "read the file {}",
            "take the number in {}",
            "open {}",
            "read the number from {}",
        )
    ).format(path)
    text = opening + v.pick((", ", " and ", ", then ", " and then ")) + step
    if v.chance(0.5):
        target = v.file()
        rounds.append([written(target, rounds[-1][0].result)])
        text += v.pick((" and ", ", then ", " and then ", ", and ")) + v.pick(WRITE_RESULT).format(target)
    return Task(phrase(v, ["{e}"], e=text[0].upper() + text[1:] if v.chance(0.8) else text), rounds, _answers(rounds))


def _calculate_write(v: Values) -> Task:
    call = calculation(v, v.number(4), v.pick("+-*"), v.number(4))
    a, sign, b = call.arguments["expression"].split()
    spoken = (
        v.pick(OPERATION[sign][1]).format(a=a, b=b)
        if v.chance(0.35)
        else v.pick(("calculate ", "compute ", "work out ", "what is ")) + f"{a} {sign} {b}"
    )
    path = v.file()
    rounds = [[call], [written(path, call.result)]]
    text = spoken + v.pick((" and ", ", then ", " and then ", "? ", ", and ")) + v.pick(WRITE_RESULT).format(path)
    return Task(phrase(v, ["{e}"], e=text[0].upper() + text[1:] if v.chance(0.8) else text), rounds, _answers(rounds))


def _chain_write(v: Values) -> Task:
    task = chain(v, 2, 4)
    path = v.file()
    rounds = [*task.rounds, [written(path, task.rounds[-1][0].result)]]
    plan = [*task.notes[0].removeprefix("Steps: ").removesuffix(".").split("; "), f"write {path}"]
    text = (
        task.ask.rstrip(".!? ")
        + v.pick((". Then ", ", then ", " and ", ". "))
        + v.pick(WRITE_RESULT).format(path)
        + v.pick((".", ""))
    )
    return Task(text, rounds, _answers(rounds), notes=remaining(plan))


def _list_read(v: Values) -> Task:
    folder, names = v.folder(), v.names()
    files = [name for name in names if not name.endswith("/")]
    chosen, first = v.pick(files), v.chance(0.5)
    listing = Call("list_dir", {"path": folder}, "\n".join(names if not first else files))
    if first:
        chosen, which = files[0], v.pick(("the first file", "the first file in it", "the first one"))
    else:
        which = v.pick(
            ("the file {} in it", "{} in it", "{} from it", "the file {} from that folder", "the file {} there")
        ).format(chosen)
    rounds = [[listing], [Call("read_file", {"path": f"{folder}/{chosen}"}, v.text())]]
    text = v.pick(
        ("list the folder {}", "list {}", "look into the folder {}", "show the folder {}", "list the files in {}")
    ).format(folder)
    text += v.pick((" and then read ", ", then read ", " and read ", " and open ", ", then open ")) + which
    return Task(phrase(v, ["{e}"], e=text[0].upper() + text[1:] if v.chance(0.8) else text), rounds, _answers(rounds))


def _copy(v: Values) -> Task:
    path, target, content = v.file(), v.file(), v.content()
    rounds = [[Call("read_file", {"path": path}, content)], [written(target, content)]]
    return Task(phrase(v, COPY_FILE, p=path, q=target), rounds, _answers(rounds))


def _time_write(v: Values) -> Task:
    place, path, now = v.city(), v.file(), moment(v)
    rounds = [[Call("current_time", {"place": place}, f"{now} ({v.pick(ZONES)})")], [written(path, now)]]
    text = v.pick(
        (
            "write the time in {c} to {p}",
            "find out the time in {c} and write it to {p}",
            "save the current time in {c} to {p}",
            "what time is it in {c}? Write it to {p}",
        )
    )
    return Task(phrase(v, [text], c=place, p=path), rounds, _answers(rounds))


def _read_two(v: Values) -> Task:
    paths, numbers, sign = [v.file(), v.file()], [v.number(4), v.number(4)], v.pick("+*-")
    rounds = [
        [Call("read_file", {"path": path}, number) for path, number in zip(paths, numbers, strict=True)],
        [calculation(v, numbers[0], sign, numbers[1])],
    ]
    verb = {
        "+": ("add the numbers", "add the two numbers", "add them"),
        "*": ("multiply the numbers", "multiply them"),
        "-": ("subtract the second number from the first",),
    }[sign]
    text = (
        v.pick(("read {} and {}", "read the files {} and {}", "read the numbers in {} and {}")).format(*paths)
        + v.pick((" and ", ", then ", " and then "))
        + v.pick(verb)
    )
    return Task(phrase(v, ["{e}"], e=text[0].upper() + text[1:]), rounds, _answers(rounds))


def _write_read(v: Values) -> Task:
    path, content = v.file(), v.content()
    rounds = [[written(path, content)], [Call("read_file", {"path": path}, content)]]
    text = v.pick(
        (
            "write {w} to {p} and then read it",
            "write {w} to {p}, then read the file",
            "save {w} in {p} and read it back",
            "create {p} with {w} and then read it back",
        )
    )
    return Task(phrase(v, [text], w=quoted(v, content), p=path), rounds, _answers(rounds))


# Talk, tools of other people, tools that are not there


def talk(v: Values, tools: dict[str, tuple[str, ...]]) -> Task:
    roll = v.rng.random()
    if roll < 0.12:
        answer = (
            f"I can call tools: {', '.join(tools)}."
            if tools
            else "I can chat a little. Give me tools, and I call them."
        )
        return Task(phrase(v, ABILITIES), [], answer)
    if roll < 0.7:
        asks, answer = v.pick(SMALL_TALK)
        return Task(phrase(v, asks), [], answer)
    text = v.pick(UNKNOWN).replace("{w}", v.word()).replace("{c}", v.city()).replace("{s}", v.words(3))
    return Task(
        phrase(v, ["{e}"], e=text), [], "I am only a tiny demo model: I can call tools, but I know very little."
    )


VERBS = """
get fetch find send lookup create delete set add search check open close start stop show count translate play
book
""".split()
NOUNS = """
weather user order price email ticket city event stock news flight hotel song video task note contact page
room light
""".split()
KEYS = """
city id name query to text amount date user topic title number code url key value place country word item
color
""".split()


def custom_tool(v: Values) -> tuple[str, tuple[str, ...]]:
    left = v.pick(VERBS) if v.chance(0.7) else v.word()
    right = v.pick(NOUNS) if v.chance(0.6) else v.word()
    name = v.pick(
        (
            f"{left}_{right}",
            f"{left}_{right}",
            f"{left}_{right}",
            right if len(right) > 2 else left + right,
            f"{left}-{right}",
        )
    )
    count = v.pick((0, 1, 1, 1, 1, 2, 2))
    keys = tuple(dict.fromkeys(v.pick(KEYS) if v.chance(0.8) else v.word() for _ in range(count)))
    return name, keys


def custom_value(v: Values, key: str) -> str | int:
    if key in ("id", "amount", "number", "code") or v.chance(0.15):
        return int(v.number())
    return v.city() if key in ("city", "place", "country") else v.content() if key in ("text", "title") else v.words(2)


def custom(v: Values) -> Task:
    """A tool the model has never seen, called because the user names it, or because its name says what it does."""
    if v.chance(0.3):
        name, keys, asks = v.pick(CUSTOM_NATURAL)
        values = {key: custom_value(v, key) for key in keys}
        ask = phrase(v, asks, **{key: str(value) for key, value in values.items()})
    else:
        name, keys = custom_tool(v)
        values = {key: custom_value(v, key) for key in keys}
        if not keys:
            ask = phrase(v, CUSTOM_BARE, t=name)
        else:
            form = v.pick(("{} {}", "{} {}", "{}={}", '{} "{}"', "{} = {}", "{}: {}"))
            said = v.pick((" and ", ", ", " and ")).join(form.format(key, value) for key, value in values.items())
            if len(keys) == 1 and v.chance(0.3):
                said = v.pick(("{}", '"{}"')).format(values[keys[0]])
            ask = phrase(v, CUSTOM, t=name, c=said)
    result = v.pick(
        (v.text(), v.content(), json.dumps({v.word(): v.number()}), "ok", f"{v.number(2)} degrees, {v.word()}")
    )
    call = Call(name, values, result)
    return Task(ask, [[call]], told(call), {name: keys})


# Whole dialogues


def broken(v: Values, task: Task) -> Task:
    """The same task, but one call is denied or fails; then nothing is tried again."""
    stop = v.rng.randrange(len(task.rounds))
    calls = list(task.rounds[stop])
    at = v.rng.randrange(len(calls))
    name = calls[at].name
    first = next(iter(calls[at].arguments.values()), "")
    errors = {
        "read_file": [
            f"there is no file {first} in the workspace.",
            f"{first} is a folder.",
            f"{first} is outside the workspace.",
            f"{first} is not text.",
        ],
        "list_dir": [
            f"there is no folder {first} in the workspace.",
            f"{first} is a file.",
            f"{first} is outside the workspace.",
        ],
        "write_file": [f"{first} is outside the workspace.", f"{first} is a folder.", "the workspace is full."],
        "calculator": [
            "division by zero",
            "the expression is too long.",
            f"cannot read {v.word()}",
            "the result is too large.",
        ],
        "current_time": [f"I do not know the place {first}.", f"unknown place {first}"],
        "run_shell": [
            f"the command ran longer than {v.number(2)} s and was ended.",
            "no shell is allowed here.",
            f"{v.word()}: command not found",
        ],
    }.get(
        name,
        [
            f"{v.words(4)}.",
            f"no answer from {name}.",
            f"HTTP {v.pick((400, 404, 500, 503))}",
            f"there is no tool {name}.",
        ],
    )
    errors.append(
        v.pick(
            (
                "the arguments are not valid JSON: " + v.words(3),
                v.words(5),
                f"the tool {name} took too long.",
                f"{v.word()} is missing.",
            )
        )
    )
    roll = v.rng.random()
    if roll < 0.4:
        result = "Denied: the user did not allow this call."
    elif roll < 0.5:
        result = "Denied: " + v.pick(
            (
                v.words(4) + ".",
                "this is not allowed here.",
                f"the rules do not allow {name}.",
                "no answer came in time.",
            )
        )
    elif roll < 0.55:
        result = "Interrupted: " + v.pick(
            ("the program was ended during this call.", v.words(4) + ".", "it is not known whether the call was done.")
        )
    else:
        result = "Error: " + v.pick(errors)
    calls[at] = replace(calls[at], result=result)
    return replace(task, rounds=[*task.rounds[:stop], calls], answer="\n".join(told(call) for call in calls))


KINDS: dict[str, float] = {
    "single": 30,
    "chain": 16,
    "plan": 22,
    "pair": 10,
    "mixed": 8,
    "broken": 5,
    "talk": 5,
    "missing": 5,
    "ending": 3,
    "custom": 4,
}
"""The share of each kind of task."""


def make(v: Values, kind: str, tools: dict[str, tuple[str, ...]]) -> Task:
    match kind:
        case "single":
            return v.pick(SINGLE)(v)
        case "chain" | "ending":
            return chain(v) if v.chance(0.7) or kind == "chain" else v.pick((mixed, pair))(v)
        case "chain6":
            return chain(v, 6, 6)
        case "chain10":
            return chain(v, 10, 10)
        case "pair":
            return pair(v)
        case "mixed":
            return mixed(v)
        case "broken":
            return broken(v, v.pick((v.pick(SINGLE), v.pick(SINGLE), v.pick(SINGLE), chain, mixed, pair, custom))(v))
        case "custom":
            return custom(v)
        case "missing":
            task = v.pick((v.pick(SINGLE), v.pick(SINGLE), custom, chain))(v)
            return replace(task, answer=NO_TOOL)
        case "talk":
            return talk(v, tools)
    raise ValueError(kind)


def _plans(v: Values) -> Dialogue:
    """Some chains, each of which is broken off after the first call: reading the steps is what is hard in them."""
    turns: list[Turn] = []
    for _ in range(4):
        task = chain(v, 3)
        turns += [user(task.ask), *assistant("\n".join((task.notes[0], task.rounds[0][0].text)))]
        turns.append(results(task.rounds[0]))
    return Dialogue("plan", "" if v.chance(0.5) else v.pick(SYSTEMS), dict(BUILT_IN), turns)


def dialogue(
    rng: random.Random, kind: str | None = None, held_out: bool = False, longest: int = 10, turns: int | None = None
) -> Dialogue:
    """A random dialogue. Its first task is of `kind`; `longest` limits the calls of a chain (for easy beginnings)."""
    v = Values(rng, held_out)
    count = turns or rng.choice((1, 1, 1, 2, 2, 3, 3, 4))
    kinds = [kind or rng.choices(list(KINDS), list(KINDS.values()))[0]]
    if kinds[0] in ("missing", "ending"):
        count = 1
    if kinds[0] == "plan":
        return _plans(v)
    if kinds[0] in ("chain", "chain6", "chain10"):
        count = min(count, 2)
    usual = [name for name in KINDS if name not in ("missing", "ending", "plan")]
    kinds += [rng.choices(usual, [KINDS[name] for name in usual])[0] for _ in range(count - 1)]
    system = "" if v.chance(0.5) else v.pick(SYSTEMS) if v.chance(0.85) else v.words(8).capitalize() + "."
    base = dict(BUILT_IN)
    if v.chance(0.2):
        names = v.rng.sample(list(BUILT_IN), rng.randint(1, 6))
        base = {name: BUILT_IN[name] for name in names}
    for _ in range(rng.randint(1, 3) if v.chance(0.15) or ("custom" in kinds and v.chance(0.6)) else 0):
        base.update([custom_tool(v)])
    if kinds[0] != "missing" and v.chance(0.4 if set(kinds) == {"talk"} else 0.12):
        base = {}  # No tools; or, where some are needed, those alone: a short list is no sign of a missing tool.
    planned = [None if name == "talk" else make(v, name, base) for name in kinds]
    while any(
        task and name != "broken" and len(task.rounds) > max(longest, 2)
        for task, name in zip(planned, kinds, strict=True)
    ):
        planned = [None if name == "talk" else make(v, name, base) for name in kinds]
    needed = {
        call.name: task.tools.get(call.name) or BUILT_IN.get(call.name, tuple(call.arguments))
        for task in planned
        if task
        for calls in task.rounds
        for call in calls
    }
    if kinds[0] == "missing":
        if v.chance(0.3):
            base = {}
        base = {name: keys for name, keys in base.items() if name not in needed}
        return Dialogue("missing", system, base, [user(planned[0].ask), *assistant(NO_TOOL)] if planned[0] else [])
    missing = [item for item in needed.items() if item[0] not in base]
    entries = list(base.items())
    for item in missing:
        entries.insert(rng.randint(0, len(entries)), item)
    if v.chance(0.15):
        rng.shuffle(entries)
    tools = dict(entries)
    out: list[Turn] = []
    for name, task in zip(kinds, planned, strict=True):
        task = task or talk(v, tools)
        out.append(user(task.ask))
        rounds, answer = task.rounds, task.answer
        if name == "ending" and v.chance(0.5) and len(rounds) > 1 and rounds[-1][0].name == "calculator":
            rounds = rounds[: rng.randint(1, len(rounds) - 1)]
            answer = f"The result is {rounds[-1][0].result}."
        for number, calls in enumerate(rounds):
            said = [*task.notes[number : number + 1], *(call.text for call in calls)]
            out += assistant("\n".join(said), learn=name != "ending")
            out.append(results(calls))
        out += assistant(answer)
    return Dialogue(kinds[0], system, {} if kinds[0] == "ending" else tools, out)

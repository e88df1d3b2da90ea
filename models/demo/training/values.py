"""Random numbers, names, contents and commands for the dialogues, split into values to train on and values held out."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

REAL_NAMES = """
notes readme todo list report data config main test index log draft plan budget summary story letter recipe
shopping ideas diary hello world demo sample output result input numbers words poem song invoice backup setup
server app utils model train users orders prices items info message mail contract agenda minutes chapter book
essay thesis paper figure table image photo music movie game score name names cities address phone contacts
work home private public old new temp tmp final copy draft2 v1 v2 january february march april may june july
august monday friday today tomorrow week month year license changelog makefile package settings env secret
keys value answer question quiz exam homework
""".split()
FOLDERS = """
docs src data tests logs images photos music reports notes old new backup tmp lib bin assets config build dist
projects work home letters drafts archive public private templates scripts tools examples models papers books
recipes
""".split()
ENDINGS = (
    "txt txt txt txt md md json csv py log html css js xml yaml toml sh ini cfg dat tex rst conf sql c h rs go".split()
)
CITIES = """
Paris London Berlin Tokyo Oslo Madrid Rome Lisbon Vienna Zurich Bern Geneva Prague Warsaw Athens Dublin
Helsinki Stockholm Copenhagen Amsterdam Brussels Moscow Kyiv Istanbul Cairo Nairobi Lagos Delhi Mumbai Beijing
Shanghai Seoul Singapore Bangkok Jakarta Sydney Melbourne Auckland Toronto Montreal Vancouver Chicago Boston
Denver Dallas Houston Miami Seattle Lima Bogota Santiago Havana Caracas Dubai Tehran Karachi Dhaka Manila
Hanoi Taipei Osaka Kyoto Munich Hamburg Cologne Lyon Milan Naples Porto Seville Reykjavik New_York Los_Angeles
San_Francisco Hong_Kong Mexico_City Buenos_Aires Sao_Paulo Rio_de_Janeiro Cape_Town Tel_Aviv
""".split()
ZONES = """
Europe/Paris Europe/London Asia/Tokyo America/New_York America/Los_Angeles Europe/Berlin Australia/Sydney
Asia/Kolkata Africa/Cairo Europe/Madrid UTC Asia/Shanghai America/Sao_Paulo
""".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
COMMON = """
buy milk eggs bread call mom meet at noon the a red blue green big small cat dog house tree sun moon water
fire good morning night happy birthday love bug fix done ready stop yes no maybe one two three four five first
second third apple banana orange coffee tea sugar salt rain snow wind summer winter hello world hi there dear
friend thank you see soon best wishes remember to send pay rent order pizza tonight with without from for of
and is are was we they it he she my your our money book paper light dark fast slow hot cold
""".split()


class Values:
    """Draws values. Words of four letters and more and numbers of three digits and more never serve both purposes."""

    def __init__(self, rng: random.Random, held_out: bool = False) -> None:
        self.rng = rng
        self.held_out = held_out

    def _mine(self, text: str) -> bool:
        return (zlib.crc32(text.lower().encode()) % 10 == 0) == self.held_out

    def pick(self, options: Sequence[T]) -> T:
        return self.rng.choice(options)

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def number(self, most: int = 6) -> str:
        """A positive whole number of one to `most` digits."""
        while True:
            digits = min(self.rng.choice((1, 1, 2, 2, 2, 3, 3, 4, 5, 6)), most)
            text = str(self.rng.randint(10 ** (digits - 1), 10**digits - 1))
            if digits < 3 or self._mine(text):
                return text

    def decimal(self) -> str:
        return f"{self.number(3)}.{self.rng.randint(1, 99)}".rstrip("0").rstrip(".")

    def word(self) -> str:
        """A random word: letters that can be spoken, or any letters."""
        while True:
            if self.chance(0.9):
                parts = (self.pick("bcdfghjklmnprstvwz") + self.pick("aeiou") for _ in range(self.pick((1, 2, 2, 3))))
                text = "".join(parts) + (self.pick("nrstlmkdx") if self.chance(0.5) else "")
            else:
                letters = "abcdefghijklmnopqrstuvwxyz"
                text = "".join(self.pick(letters) for _ in range(self.rng.randint(1, 4)))
            if len(text) < 4 or self._mine(text):
                return text

    def stem(self) -> str:
        text = self.pick(REAL_NAMES) if self.chance(0.5) else self.word()
        roll = self.rng.random()
        if roll < 0.08:
            text += self.pick("_-") + (self.word() if self.chance(0.5) else self.number(4))
        elif roll < 0.13:
            text += self.number(2)
        if self.chance(0.06):
            text = text.upper() if self.chance(0.4) else text.capitalize()
        return text

    def file(self) -> str:
        """A file name, now and then with a folder."""
        name = self.stem() + "." + self.pick(ENDINGS)
        if self.chance(0.03):
            name = self.pick((".env", "README", "Makefile", "LICENSE", "." + self.word()))
        return name if self.chance(0.82) else f"{self.folder()}/{name}"

    def folder(self) -> str:
        text = self.pick(FOLDERS) if self.chance(0.5) else self.word()
        return text if self.chance(0.88) else f"{text}/{self.word()}"

    def city(self) -> str:
        if self.chance(0.35):
            return self.word().capitalize()
        return self.pick(CITIES).replace("_", " ")

    def words(self, most: int) -> str:
        count = self.rng.randint(1, most)
        return " ".join(self.pick(COMMON) if self.chance(0.6) else self.word() for _ in range(count))

    def content(self) -> str:
        """One short line to write into a file."""
        roll = self.rng.random()
        if roll < 0.45:
            text = self.words(1)
        elif roll < 0.78:
            text = self.words(3)
        elif roll < 0.9:
            return self.number()
        elif roll < 0.93:
            return self.pick((self.word() + "=" + self.number(3), self.word() + ": " + self.word(), self.decimal()))
        else:
            text = self.words(1).capitalize() + ", " + self.words(2)
        roll = self.rng.random()
        if roll < 0.15:
            text = text.capitalize()
        elif roll < 0.2:
            text = text.upper()
        elif roll < 0.28:
            text = text.capitalize() + self.pick((".", "!", "?"))
        return text

    def text(self) -> str:
        """What a file holds: mostly one line."""
        if self.chance(0.85):
            return self.content()
        lines = [self.content() for _ in range(self.rng.randint(2, 3))]
        if self.chance(0.1):
            lines = ["# " + lines[0], "", *lines[1:]]
        return "\n".join(lines)

    def names(self) -> list[str]:
        """What a folder holds."""
        entries = {self.stem() + "." + self.pick(ENDINGS) for _ in range(self.rng.randint(1, 4))}
        if self.chance(0.35):
            entries |= {self.pick(FOLDERS) + "/"}
        return sorted(entries)

    def command(self) -> str:
        """A shell command."""
        file, other, folder, word = self.file(), self.file(), self.folder(), self.word()
        return self.pick(
            (
                f"touch {file}",
                f"touch {file}",
                f"mkdir {folder}",
                f"mkdir -p {folder}",
                f"rm {file}",
                f"cat {file}",
                f"cp {file} {other}",
                f"mv {file} {other}",
                f"ls {folder}",
                "ls",
                "ls -la",
                "ls -l",
                "pwd",
                "date",
                "whoami",
                f"echo {word}",
                f"echo {self.content()}",
                f"echo {word} > {file}",
                f"wc -l {file}",
                f"head -n {self.number(2)} {file}",
                f"grep {word} {file}",
                f"python {file}",
                f"python3 {file}",
                "uname -a",
                "df -h",
                f"sleep {self.number(2)}",
                f"seq {self.number(2)}",
                f"tail {file}",
                f"sort {file} | uniq",
                f"rm -rf {folder}",
                f"git {self.pick(('status', 'log', 'diff'))}",
                f"find {folder} -name '*.{self.pick(ENDINGS)}'",
                f'echo "{self.content()}"',
                f"{word} --{self.word()}",
                f"{word} {self.word()}",
                f"bash {file}",
                f"du -sh {folder}",
                f"expr {self.number(3)} + {self.number(3)}",
                f"cd {folder} && ls",
                f"chmod +x {file}",
                "env",
                "hostname",
                "ps aux",
                f"printf {word}",
            )
        )

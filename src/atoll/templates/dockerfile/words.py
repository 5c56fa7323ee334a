"""Words of a Dockerfile: their quotes, their escapes and their variables.

What a base image sets is not known before the build, so a word is treated in one of two ways.
`keep` takes quotes and escapes away and leaves the variables for the builder; `expand` gives the
final text, for what is needed here and now, and refuses variables that are not known here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from e2b_dockerfile_utils import ShellLex

from atoll.templates.dockerfile.syntax import DockerfileError, Line

# What has a meaning to the builder (see `atoll.templates.recipe`), and therefore is written with a
# backslash when it stands for itself.
_SPECIAL = frozenset("\\$")
_SPECIAL_IN_BRACES = frozenset("\\$'}")
_NAME = re.compile(r"\d+|[@*#?\-$!0]|\w+")
_PATTERN_MODIFIERS = "#%/"


class Variables:
    """The variables at a point of the file, as far as they are known without a base image."""

    def __init__(self, *, complete: bool = False) -> None:
        """`complete`: there are no others, so what is not here is not set."""
        self._values: dict[str, str | None] = {}
        self._complete = complete

    def copy(self) -> Variables:
        """For a stage that stands on this one."""
        made = Variables(complete=self._complete)
        made._values = dict(self._values)
        return made

    def put(self, name: str, value: str | None) -> None:
        """Remember a value, or with None that it is not set."""
        self._values[name] = value

    def forget(self, name: str) -> None:
        """From now on the value depends on what is not known here."""
        self._values.pop(name, None)

    @property
    def values(self) -> dict[str, str]:
        """Those that are set and known."""
        return {name: value for name, value in self._values.items() if value is not None}

    def watch(self) -> _Watch:
        """For the lexer: the same, taking note of the names that are asked in vain."""
        unset = None if self._complete else self._values.keys() - self.values.keys()
        return _Watch(self.values, unset)


class _Watch(dict[str, str]):
    def __init__(self, known: Mapping[str, str], unset: Collection[str] | None) -> None:
        super().__init__(known)
        self._unset = unset
        self.missed: set[str] = set()

    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]
        if self._unset is not None and name not in self and name not in self._unset:
            self.missed.add(name)
        return super().get(name, default)


class Words:
    """How the words of one file are read."""

    def __init__(self, escape: str) -> None:
        self._escape = escape

    def expand(self, line: Line, word: str, variables: Variables) -> str:
        """The text that the word stands for. Raises `DockerfileError`."""
        text, missed = self._process(line, word, variables)
        if missed:
            raise line.error(
                f"{word!r} needs the variable {sorted(missed)[0]}, and no ARG or ENV above sets it",
                remedy="what a base image sets is known only once it is built; set it here as well",
            )
        return text

    def try_expand(self, line: Line, word: str, variables: Variables) -> str | None:
        """The same; None when it depends on variables that are not known."""
        try:
            text, missed = self._process(line, word, variables)
        except DockerfileError:
            return None  # `${NAME:?…}`, which the builder will decide
        return None if missed else text

    def expand_text(self, line: Line, text: str, variables: Variables) -> str:
        """The same for the text of a heredoc, where quotes mean nothing."""
        expanded, missed = self._process(line, text, variables, quotes=False)
        if missed:
            raise line.error(
                f"the heredoc needs {sorted(missed)[0]}, and no ARG or ENV above sets it",
                remedy="quote the word after << to take the text as it is, or set the variable",
            )
        return expanded

    def keep(self, line: Line, word: str) -> str:
        """The word without quotes, its variables left to the builder. Raises `DockerfileError`."""
        try:  # what follows sees well-formed words only
            ShellLex(self._escape).process_word(word)
        except ValueError as error:
            raise line.error(str(error)) from None
        return _Keeper(line, word, self._escape).keep()

    def _process(
        self, line: Line, word: str, variables: Variables, *, quotes: bool = True
    ) -> tuple[str, set[str]]:
        known = variables.watch()
        lexer = ShellLex(
            self._escape, env=known, skip_unset_env=False, skip_process_quotes=not quotes
        )
        try:
            return lexer.process_word(word), known.missed
        except ValueError as error:
            raise line.error(str(error)) from None


def write_literal(text: str) -> str:
    """Text as the builder takes it when it is to stay as it is."""
    return _escape(text, _SPECIAL)


def _escape(text: str, special: Collection[str]) -> str:
    return "".join("\\" + each if each in special else each for each in text)


class _Keeper:
    """Walks along a well-formed word."""

    def __init__(self, line: Line, word: str, escape: str) -> None:
        self._line = line
        self._word = word
        self._escape = escape
        self._at = 0
        self._special = _SPECIAL

    def keep(self) -> str:
        return self._until(None)

    def _literal(self, text: str) -> str:
        return _escape(text, self._special)

    def _take(self) -> str:
        each = self._word[self._at : self._at + 1]
        self._at += 1
        return each

    def _peek(self) -> str:
        return self._word[self._at : self._at + 1]

    def _until(self, stop: str | None) -> str:
        kept = []
        while each := self._take():
            if each == stop:
                break
            if each == "'":
                end = self._word.index("'", self._at)
                kept.append(self._literal(self._word[self._at : end]))
                self._at = end + 1
            elif each == '"':
                kept.append(self._quoted())
            elif each == "$":
                kept.append(self._variable())
            else:
                kept.append(self._literal(self._take() if each == self._escape else each))
        return "".join(kept)

    def _quoted(self) -> str:
        kept = []
        while (each := self._take()) != '"':
            if each == "$":
                kept.append(self._variable())
            elif each == self._escape and self._peek() in ('"', "$", self._escape):
                kept.append(self._literal(self._take()))
            else:
                kept.append(self._literal(each))
        return "".join(kept)

    def _variable(self) -> str:
        if self._peek() != "{":
            name = self._name()
            return f"${{{name}}}" if name else self._literal("$")
        self._take()
        name = self._name()
        modifier = self._take()
        if modifier == "}":
            return f"${{{name}}}"
        if modifier == ":":
            modifier += self._take()
        if modifier in _PATTERN_MODIFIERS:
            return f"${{{name}{modifier}{self._pattern()}}}"
        outside, self._special = self._special, _SPECIAL_IN_BRACES
        word = self._until("}")
        self._special = outside
        return f"${{{name}{modifier}{word}}}"

    def _name(self) -> str:
        found = _NAME.match(self._word, self._at)
        if found is None:
            return ""
        self._at = found.end()
        return found[0]

    def _pattern(self) -> str:
        """Patterns have escapes of their own, which stay; nothing else fits into them."""
        start = self._at
        while (each := self._take()) != "}":
            if each == "\\":
                self._take()
            elif each in "'\"$" or each == self._escape:
                raise self._line.error("quotes and variables in a pattern are not supported")
        return self._word[start : self._at - 1]

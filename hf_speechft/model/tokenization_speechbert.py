"""SpeechBertTokenizer: the CTC view of a vocabulary, from transcripts to unit ids and from steps back to text.

Units are written as in SentencePiece: `▁` stands for the space before a word. One rule covers both kinds of
vocabulary: a sentence is `▁` + its words joined by `▁`, cut greedily into the longest known units, and text is the
units joined with `▁` read as a space.

- `char` holds `▁` and single characters.
- `native` holds, besides these, the text checkpoint's own tokens as far as they occur in the training text.

A vocabulary for a script that writes no spaces, such as Chinese, holds no `▁`: there spaces of a sentence are left
out, and each character is a word of its own, together with the combining marks behind it.
"""

import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, PreTrainedTokenizer
from transformers.utils import ModelOutput, to_py_obj

WORD_START = "▁"
SPECIAL_TOKENS = ("<pad>", "<unk>")
VOCABULARIES = ("char", "native")
IGNORED_LABEL = -100


class SpeechBertTokenizer(PreTrainedTokenizer):
    """Turns transcripts into CTC units, and the best unit of each step into text with times.

    Args:
        vocab_file: JSON file that maps units to ids. `<pad>`, the CTC blank, has id 0.
        text_normalizer: Name of the normaliser (`hf_speechft.data.text`) that the training transcripts went through.
        checkpoint_ids: For each unit the text checkpoint's id of it, -1 where it has none; `None` for `char`.
        pad_token: The CTC blank.
        unk_token: What stands for a character outside the vocabulary.
    """

    vocab_files_names = {"vocab_file": "vocab.json"}
    model_input_names = ["input_ids", "attention_mask"]
    word_delimiter_token = WORD_START
    replace_word_delimiter_char = " "

    def __init__(
        self,
        vocab_file: str,
        text_normalizer: str = "none",
        checkpoint_ids: list[int] | None = None,
        pad_token: str = SPECIAL_TOKENS[0],
        unk_token: str = SPECIAL_TOKENS[1],
        **kwargs: object,
    ) -> None:
        with open(vocab_file, encoding="utf-8") as file:
            self.unit_ids: dict[str, int] = json.load(file)
        self.units = {unit_id: unit for unit, unit_id in self.unit_ids.items()}
        self.text_units = self.unit_ids.keys() - {str(pad_token), str(unk_token)}
        self.longest_unit = max(map(len, self.text_units), default=0)
        self.text_normalizer = text_normalizer
        self.checkpoint_ids = checkpoint_ids
        super().__init__(
            text_normalizer=text_normalizer,
            checkpoint_ids=checkpoint_ids,
            pad_token=pad_token,
            unk_token=unk_token,
            special_tokens_pattern="none",
            **{"split_special_tokens": True, **kwargs},  # "<pad>" in a transcript is five characters, not a blank
        )

    @property
    def separator(self) -> str:
        """What stands between two words in text: a space, or nothing where the units mark no words."""
        return " " if WORD_START in self.unit_ids or WORD_START in self.added_tokens_encoder else ""

    def written(self, text: str) -> str:
        """A transcript as these units can write it: words with a space between them, or with nothing."""
        return self.separator.join(text.split())

    @property
    def word_start_ids(self) -> set[int]:
        """Ids of the units that begin a word: those with `▁`, or, where none is, all but combining marks."""
        special = set(self.all_special_tokens)

        def begins_word(unit: str) -> bool:
            return unit.startswith(WORD_START) if self.separator else not (unit in special or _is_combining(unit[0]))

        return {unit_id for unit, unit_id in self.get_vocab().items() if begins_word(unit)}

    @property
    def vocab_size(self) -> int:
        """Number of units, blank and unknown included."""
        return len(self.unit_ids)

    def get_vocab(self) -> dict[str, int]:
        """Unit to id, with tokens that were added later."""
        return {**self.unit_ids, **self.added_tokens_encoder}

    def _tokenize(self, text: str, **kwargs: object) -> list[str]:
        """Cut text greedily into the longest known units; a character that is in none becomes `<unk>`."""
        words = text.replace(WORD_START, " ").split()
        mark = WORD_START if self.separator else ""
        sentence = mark + mark.join(words) if words else ""
        added = self.added_tokens_encoder.keys() - set(self.all_special_tokens)
        known = self.text_units | added if added else self.text_units
        longest = max(self.longest_unit, *map(len, added)) if added else self.longest_unit
        units, start = [], 0
        while start < len(sentence):
            for end in range(min(len(sentence), start + longest), start, -1):
                if sentence[start:end] in known:
                    units.append(sentence[start:end])
                    break
            else:
                end = start + 1
                units.append(self.unk_token)
            start = end
        return units[1:] if units[:1] == [WORD_START] else units

    def _convert_token_to_id(self, token: str) -> int:
        return self.unit_ids.get(token, self.unit_ids[self.unk_token])

    def _convert_id_to_token(self, index: int) -> str:
        return self.units.get(index, self.unk_token)

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Join units to text; blanks are left out."""
        text = "".join(unit for unit in tokens if unit != self.pad_token)
        return " ".join(text.replace(WORD_START, " ").split())  # a space may be recognised twice in a row

    def spell(self, labels: torch.Tensor) -> torch.Tensor:
        """Spell each unit in the units of single characters, which every vocabulary holds.

        Args:
            labels: `(batch, tokens)` unit ids, padded on the right with negative numbers.

        Returns:
            `(batch, characters)`, padded on the right with -100.
        """
        table = self._spellings.to(labels.device)
        spelled = table[labels.clamp(min=0)].masked_fill((labels < 0)[..., None], IGNORED_LABEL).flatten(1)
        order = (spelled < 0).int().argsort(dim=1, stable=True)
        longest = int((spelled >= 0).sum(dim=1).max())
        return spelled.gather(1, order)[:, :longest]

    @cached_property
    def _spellings(self) -> torch.Tensor:
        """Ids of each unit's characters, `(units, characters)`, padded on the right with -100."""
        rows = [
            [self.unit_ids[char] for char in unit] if unit in self.text_units else [unit_id]
            for unit_id, unit in sorted(self.units.items())
        ]
        return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=IGNORED_LABEL)

    def decode(
        self,
        token_ids: object,
        skip_special_tokens: bool = False,
        group_tokens: bool = True,
        output_char_offsets: bool = False,
        output_word_offsets: bool = False,
        **kwargs: object,
    ) -> "str | list[str] | SpeechBertTokenizerOutput":
        """Turn the best unit of each step into text: repeats collapse first, then blanks go.

        Args:
            token_ids: Ids `(steps,)` or `(batch, steps)`: list, array or tensor. Negative ids count as blanks.
            skip_special_tokens: Whether to leave `<unk>` out. The blank is left out always.
            group_tokens: Whether to collapse repeats. Labels, which have not come from steps, need `False`.
            output_char_offsets: Whether to return the span in steps of each character. A unit of several characters
                divides its span evenly among them.
            output_word_offsets: Whether to return the span in steps of each word.
            **kwargs: Accepted for compatibility with other tokenizers; not used.

        Returns:
            The text, or texts for a batch; with offsets a `SpeechBertTokenizerOutput`.
        """
        ids = to_py_obj(token_ids)
        ids = [ids] if isinstance(ids, int) else list(ids)
        if ids and isinstance(ids[0], (list, tuple)):
            return self.batch_decode(
                ids,
                skip_special_tokens,
                group_tokens=group_tokens,
                output_char_offsets=output_char_offsets,
                output_word_offsets=output_word_offsets,
            )
        spans = self._unit_spans(ids, skip_special_tokens, group_tokens)
        if not (output_char_offsets or output_word_offsets):
            return self.convert_tokens_to_string([unit for unit, _, _ in spans])
        chars = _char_offsets(spans)
        return SpeechBertTokenizerOutput(
            text="".join(offset["char"] for offset in chars),
            char_offsets=chars if output_char_offsets else None,
            word_offsets=self._get_word_offsets(chars) if output_word_offsets else None,
        )

    def batch_decode(
        self, sequences: object, skip_special_tokens: bool = False, **kwargs: object
    ) -> "list[str] | SpeechBertTokenizerOutput":
        """`decode` each of several id sequences; with offsets, one output whose fields are lists."""
        decoded = [self.decode(ids, skip_special_tokens, **kwargs) for ids in sequences]
        if decoded and isinstance(decoded[0], ModelOutput):
            return SpeechBertTokenizerOutput(**{name: [one[name] for one in decoded] for name in decoded[0]})
        return decoded

    def _unit_spans(
        self, ids: Iterable[int], skip_special_tokens: bool, group_tokens: bool
    ) -> list[tuple[str, int, int]]:
        """Units that remain of the ids, each with its first step and the step after its last."""
        blank = self.pad_token_id
        ids = [blank if unit_id < 0 else unit_id for unit_id in ids]
        runs = [(key, len(list(run))) for key, run in groupby(ids)] if group_tokens else [(key, 1) for key in ids]
        skipped = {blank, self.unk_token_id} if skip_special_tokens else {blank}
        spans, step = [], 0
        for unit_id, steps in runs:
            if unit_id not in skipped:
                spans.append((self.convert_ids_to_tokens(unit_id), step, step + steps))
            step += steps
        return spans

    def _get_word_offsets(self, char_offsets: list[dict], word_delimiter_char: str = " ") -> list[dict]:
        """Join character offsets to word offsets. The ASR pipeline calls this by its name."""
        words, before = [], word_delimiter_char
        for offset in char_offsets:
            char = offset["char"]
            if char != word_delimiter_char:
                if before == word_delimiter_char or not (self.separator or _is_combining(char)):
                    words.append({"word": "", "start_offset": offset["start_offset"]})
                words[-1]["word"] += char
                words[-1]["end_offset"] = offset["end_offset"]
            before = char
        return words

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """Write `vocab.json` and return its path."""
        path = Path(save_directory) / f"{filename_prefix + '-' if filename_prefix else ''}vocab.json"
        path.write_text(json.dumps(self.unit_ids, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return (str(path),)


@dataclass
class SpeechBertTokenizerOutput(ModelOutput):
    """Decoded text with the spans of its characters and words in steps; lists of these for a batch."""

    text: str | list[str]
    char_offsets: list | None = None
    word_offsets: list | None = None


def _is_combining(char: str) -> bool:
    """Tell whether a character is written onto the one before it, as Thai vowels and tones are."""
    return unicodedata.category(char).startswith("M")


def _char_offsets(spans: Sequence[tuple[str, int, int]]) -> list[dict]:
    """Spans of single characters; the space between two words spans the time between them."""
    offsets = []
    for unit, start, end in spans:
        begins_word = unit.startswith(WORD_START)
        text = unit.removeprefix(WORD_START)
        if begins_word and offsets and offsets[-1]["char"] != " ":
            last_end = offsets[-1]["end_offset"]
            offsets.append({"char": " ", "start_offset": last_end, "end_offset": start if text else end})
        for index, char in enumerate(text):
            width = (end - start) / len(text)
            first, last = start + index * width, start + (index + 1) * width
            offsets.append({"char": char, "start_offset": first, "end_offset": last})
    if offsets and offsets[-1]["char"] == " ":
        offsets.pop()
    return offsets


def build_vocabulary(
    name_or_path: str, texts: Iterable[str], vocabulary: str, word_marks: bool = True, **hub_options: object
) -> tuple[list[str], list[int] | None]:
    """List the units for a training text.

    Args:
        name_or_path: The text checkpoint, whose tokenizer gives the units of `native`.
        texts: Normalised training transcripts.
        vocabulary: `char` or `native`.
        word_marks: Whether units tell where words begin; `False` for scripts without spaces between words.
        **hub_options: `revision`, `token` and the like for the checkpoint's tokenizer.

    Returns:
        The units, blank first, and for `native` the checkpoint's id of each unit (-1 where it has none).

    Raises:
        ValueError: The vocabulary's name is unknown, or the texts hold no character.
    """
    if vocabulary not in VOCABULARIES:
        raise ValueError(f"vocabulary is {vocabulary!r}; it needs to be one of {', '.join(VOCABULARIES)}")
    words = sorted({word for text in texts for word in text.replace(WORD_START, " ").split()})
    if not words:
        raise ValueError("the texts hold no character; a vocabulary is built from the training transcripts")
    marks = [WORD_START] if word_marks else []
    units = [*SPECIAL_TOKENS, *marks, *sorted({char for word in words for char in word})]
    if vocabulary == "char":
        return units, None
    ids = dict.fromkeys(units, -1)
    for unit, checkpoint_id in _checkpoint_units(AutoTokenizer.from_pretrained(name_or_path, **hub_options), words):
        ids[unit if word_marks else unit.removeprefix(WORD_START)] = checkpoint_id
    return list(ids), list(ids.values())


def _checkpoint_units(tokenizer: PreTrainedTokenizer, words: Sequence[str]) -> Iterable[tuple[str, int]]:
    """Cut each word with the checkpoint's tokenizer and yield its pieces with their ids, in order.

    The surface of a piece is cut from the word by its offsets, so that every family of tokenizers gives the same kind
    of unit. A word whose pieces don't spell it (unknown tokens, bytes of a character) is left to single characters.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} has no fast version, which tells where in a word a unit lies; use "
            "vocabulary='char'"
        )
    alphabet = sorted({char for word in words for char in word})
    for word in [*words, *alphabet]:
        encoding = tokenizer(f" {word}", add_special_tokens=False, return_offsets_mapping=True)
        pieces = [
            (f" {word}"[start:end].strip(), piece_id)
            for piece_id, (start, end) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True)
        ]
        pieces = [(surface, piece_id) for surface, piece_id in pieces if surface]
        if "".join(surface for surface, _ in pieces) != word or tokenizer.unk_token_id in encoding["input_ids"]:
            continue
        for position, (surface, piece_id) in enumerate(pieces):
            yield (surface if position else WORD_START + surface), piece_id


__all__ = ["SpeechBertTokenizer"]

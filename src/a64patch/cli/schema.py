"""The form of all JSON that the commands print: each field once, then the objects made of fields, then the documents.

A field has one type, whichever command prints it. `python -m a64patch.cli.schema` prints a JSON Schema (draft 2020-12)
of all commands; behind it the name of a command, that of this command.
Read on: docs/json.md explains the objects; text.py prints.
"""

from __future__ import annotations

import sys
from typing import Any

Schema = dict[str, Any]


def _list_of(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _object(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _one_of(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def _by_name(values: Schema) -> Schema:
    return {"type": "object", "additionalProperties": values}


_TEXT: Schema = {"type": "string"}
_BOOL: Schema = {"type": "boolean"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_COUNT_OR_NULL: Schema = {"type": ["integer", "null"], "minimum": 0}
_ADDRESS: Schema = {"type": "string", "pattern": "^0x(0|[1-9a-f][0-9a-f]{0,16})$"}
_ADDRESS_OR_NULL: Schema = _ADDRESS | {"type": ["string", "null"]}
_BOOL_OR_NULL: Schema = {"type": ["boolean", "null"]}
_NUMBER_OR_NULL: Schema = {"type": ["integer", "null"]}
_WORD: Schema = {"type": "string", "pattern": "^[0-9a-f]{8}$"}
_WORD_OR_NULL: Schema = _WORD | {"type": ["string", "null"]}
_TIME: Schema = {"type": ["string", "null"], "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T"}
_RANGE: Schema = _list_of(_ADDRESS) | {"minItems": 2, "maxItems": 2}

FIELDS: dict[str, tuple[Schema, str]] = {
    "act": (_TEXT, "what a step does, such as `ic`"),
    "address": (_ADDRESS, "bytes, in hex with `0x`"),
    "annex_names": (_list_of(_TEXT), "the names of the annexes, in the patch's order"),
    "annexes": (_list_of(_object("annex")), "the new code that lies elsewhere: one, or none"),
    "afterwards": (_object("calls"), "calls after the change"),
    "assumed": (_list_of(_TEXT), "what was taken for granted, a clause each"),
    "assumptions": (_list_of(_TEXT), "what SAFE rests on; empty for another verdict"),
    "base": (_ADDRESS, "bytes from a symbol's address in its file to its address here"),
    "began": (_TIME, "UTC, ISO 8601"),
    "broadcast": (_BOOL, "cache maintenance by one CPU reaches all"),
    "broken": (_by_name(_list_of(_TEXT)), "the models that allow a property to be broken, by its name"),
    "build_id": (_TEXT, "lower-case hex"),
    "by": (_TEXT, "who does a step on this target"),
    "bytes": (_COUNT, "the size of a room"),
    "can_kick": (_BOOL, "the target can make every CPU synchronise its context"),
    "can_stop": (_BOOL, "the target can stop every CPU"),
    "changes": (_list_of(_object("change")), "the words of code to write, or that were written"),
    "choices": (_COUNT, "how many choices the search has tried"),
    "cmodx": (_one_of("possible", "none", "unknown"), "whether a fetch of the test is CONSTRAINED UNPREDICTABLE"),
    "compared": (_one_of("by meaning", "by words"), "how the lines of a patch were compared with the target"),
    "counterexample": (
        {"anyOf": [_object("counterexample"), {"type": "null"}]},
        "the execution that breaks a property; null without one",
    ),
    "cpu": (_TEXT, "whose step it is, such as `patcher`"),
    "cpus": (_COUNT, "how many CPUs may be executing the target; 0 for a file"),
    "cut": (_COUNT, "how many branches of the search were cut off"),
    "cycle": (_list_of(_list_of(_TEXT)), "a cycle that forbids the execution: from, relation, to"),
    "data": (_BOOL, "the word is data between the code"),
    "data_changes": (_list_of(_object("change")), "the words of data that change with the code"),
    "details": (_by_name(_TEXT), "more about the target, by name"),
    "dic": (_BOOL, "CTR_EL0.DIC"),
    "differing": (_COUNT, "how many words are not those of their keys' states"),
    "difference": (_TEXT, "the first word that is neither old nor new; empty unless the hunk is foreign"),
    "ended": (_TIME, "UTC, ISO 8601; null while the entry is open"),
    "ends": (_BOOL, "the new code is taken away, not built"),
    "enabled": (_NUMBER_OR_NULL, "the counter of a static key; null when it is not known"),
    "end": (_ADDRESS, "the first address behind the range"),
    "entered": (_list_of(_TEXT), "the ways into the middle of the site"),
    "entry": (_COUNT_OR_NULL, "the number of the journal's entry; null where no journal keeps one"),
    "error": (_object("error"), "why the command, or this line or file, failed"),
    "executions": (_COUNT, "how many executions the search has completed"),
    "executors": (_COUNT_OR_NULL, "the number of other CPUs; null for any number"),
    "exit_status": (_COUNT, "what the command returns, or would for this line or file alone"),
    "expected": (_TEXT, "the verdict that the file expects; empty without one"),
    "file": (_TEXT, "the path as it was given"),
    "found": (_WORD_OR_NULL, "the word that is there; null when it is not read"),
    "from": (_TEXT, "where the room comes from, such as `a new segment`"),
    "functions": (_list_of(_object("function")), "the kernel's functions that were read"),
    "guards": (_list_of(_object("guard")), "the words of data that must hold while the others change"),
    "hazards": (_list_of(_object("hazard")), "what may go wrong, accepted or not"),
    "hotpatchable": (_BOOL, "the word is in the manual's list"),
    "hunk_sites": (_list_of(_TEXT), "the site of each hunk"),
    "hunks": (_list_of(_object("hunk")), "the hunks in the patch's order"),
    "id": (_COUNT, "the number of the journal's entry"),
    "idc": (_BOOL, "CTR_EL0.IDC"),
    "implied_nops": (_list_of(_ADDRESS), "where NOPs replace old instructions that have no new ones"),
    "incarnation": (_TEXT, "which run of the target it is: parts `NAME=VALUE`"),
    "init": (_BOOL, "the code is freed after boot; the word of a running kernel is not compared then"),
    "initially": (_BOOL_OR_NULL, "the key was on at first; null when it is not known"),
    "instructions": (_list_of(_TEXT), "`+OFFSET TEXT` of each instruction that matters"),
    "keep_out": (_list_of(_RANGE), "ranges [start, end) where no CPU may be"),
    "kept_out": (_list_of(_TEXT), "the functions where no CPU may be"),
    "kernel": (_TEXT, "what Linux does with the word"),
    "key_address": (_ADDRESS_OR_NULL, "null for a key in another file, or in memory that the file does not hold"),
    "key_sites": (_list_of(_object("key-site")), "the words that a static key decides"),
    "key_state": (_one_of("on", "off", "changing", "unknown"), "of a static key"),
    "keys": (_list_of(_object("static-key")), "the static keys by name, or the one that was named"),
    "kind": (_TEXT, "what the target is, such as `ELF file`"),
    "left_out": (_list_of(_TEXT), "what the proof leaves out, a clause each"),
    "lesson": (_TEXT, "a sentence"),
    "litmus": (_list_of(_object("export")), "the searched programs; `file` is empty for one that herd has no form for"),
    "linked": (_BOOL, "loaded modules have sites of the key"),
    "location": (_TEXT, "the target, as TARGET takes it"),
    "may_race": (_BOOL, "the word may change while CPUs execute it"),
    "method": (_TEXT | {"type": ["string", "null"]}, "nosync, kick or stop; null when nothing is to be done"),
    "model": (_TEXT, "the memory model's name"),
    "models": (_by_name(_object("answer")), "the answer of each memory model"),
    "module": (_TEXT, "the loaded module with the word; empty for the kernel, and in a file"),
    "modules": (_list_of(_object("module")), "the known builds in the target"),
    "name": (_TEXT, "of the error's class, the hazard, the module, the process or the test"),
    "new": (_WORD, "eight hex digits"),
    "new_calls": (_COUNT, "how many calls executed new code only"),
    "new_text": (_TEXT, "instructions as text"),
    "new_words": (_list_of(_WORD), "eight hex digits each"),
    "not_expressed": (_list_of(_TEXT), "differences that the patch does not make"),
    "note": (_TEXT, "the result, for people"),
    "notes": (_list_of(_TEXT), "more sentences"),
    "offset": ({"type": "integer"}, "bytes from the address that the hunk's site names"),
    "old": (_WORD, "eight hex digits"),
    "old_calls": (_COUNT, "how many calls executed old code only"),
    "old_text": (_TEXT, "instructions as text"),
    "old_words": (_list_of(_WORD), "eight hex digits each"),
    "omitted": (_list_of(_TEXT), "steps that are left out"),
    "parts": (_list_of(_object("part")), "the functions, data and detours in new code"),
    "patch": (_TEXT, "an assembly diff"),
    "pid": (_COUNT, "the number of the process"),
    "places": (_list_of(_TEXT), "the sites that raise this question"),
    "plan": (
        {"anyOf": [_object("plan"), _object("proved-plan"), {"type": "null"}]},
        "that of the first process that can be patched; null when there is none",
    ),
    "predicted": (_BOOL_OR_NULL, "the word is that of the key's state; null when the word or the state is not known"),
    "predicted_word": (_WORD_OR_NULL, "the word that belongs to the key's state; null when that is not known"),
    "processes": (_list_of(_object("process")), "all that execute the file, in order of their numbers"),
    "profile": (_TEXT, "the issue of the manual's list"),
    "proofs": (_list_of(_object("proof")), "a proof for each distinct site"),
    "property": (_TEXT, "P1, P2 or P3; for a protocol file `never` too"),
    "protocol": (_TEXT, "nosync, kick, stop or brk"),
    "protocols": (_list_of(_object("kernel-protocol")), "the kernel's own protocols for each machine"),
    "question": (_TEXT, "as the protocol file has it"),
    "quantifier": (_TEXT, "what the litmus test asks"),
    "reason": (_TEXT, "a sentence"),
    "release": (_TEXT, "the build's name for people"),
    "relocation": (_TEXT, "the relocation that overwrites the word"),
    "replaced": (_by_name(_TEXT), "the new function, by the site of the old one"),
    "replacements": (_list_of(_object("replacement")), "the words of each site"),
    "result": (
        _one_of(
            "applied",
            "already applied",
            "not applied",
            "foreign",
            "skipped",
            "ended",
            "failed",
            "reverted",
            "not reverted",
        ),
        "what was found out about a process, or done to it",
    ),
    "retries": (_COUNT, "how often a CPU was in the way"),
    "reverted_by": (_COUNT_OR_NULL, "the entry that undid this one; null without one"),
    "reverts": (_COUNT_OR_NULL, "the entry that this one undoes; null when it undoes none"),
    "safe": (_BOOL, "the change may race with execution"),
    "scenario": (_TEXT, "one way to change code"),
    "searches": (_COUNT, "how many searches the proof took"),
    "seconds": ({"type": "number", "minimum": 0}, "how long the proof took"),
    "sees_pcs": (_BOOL, "the target tells where CPUs stand"),
    "sentence": (_TEXT, "for people, as stderr has it"),
    "sequence": (_list_of(_TEXT), "`CPU: INSTRUCTION` of each step, in order; empty when they are not known"),
    "site": (_TEXT, "`symbol`, `symbol+0x18`, `section:0x10` or an address"),
    "sites": (_list_of(_object("site")), "the words that change as one"),
    "source": (_TEXT, "where a protocol comes from"),
    "start": (_ADDRESS, "the first address"),
    "state": (
        _one_of("not applied", "applied", "foreign", "open", "undone", "reverted", "partial"),
        "of a hunk, a patch or an entry, after all that the command did",
    ),
    "stays": (_TEXT, "which new code could not be given back, and why; empty when none is left"),
    "step": (_TEXT, "the step's name, as `--omit` takes it"),
    "steps": (_list_of(_object("step")), "the steps of the method on this target"),
    "stop_window_ns": (_COUNT_OR_NULL, "how long all CPUs were stopped (ns); null when none was"),
    "stopped": (_list_of(_COUNT), "the numbers of the CPUs that were stopped"),
    "subject": (_TEXT, "the first line of the patch's prose, or the title of the protocol"),
    "text": (_TEXT, "an instruction as text"),
    "timeline": (_list_of(_TEXT), "the events of the execution, a line each"),
    "torn_calls": (_COUNT, "how many calls executed some of each"),
    "traced": (_BOOL, "somebody traces the function now"),
    "unanswered": (_list_of(_TEXT), "steps that nobody answers for"),
    "unpredictable": (_TEXT, "why the word is CONSTRAINED UNPREDICTABLE"),
    "unrestored": (_list_of(_ADDRESS), "the words that are not known to be the old ones"),
    "verdict": (
        _one_of("SAFE", "UNSAFE", "UNKNOWN", "Allowed", "Forbidden", "Unknown"),
        "of a proof, or of a model on a test",
    ),
    "warnings": (_list_of(_TEXT), "sentences that go to stderr without --json"),
    "was": (
        _one_of("open", "partial", "applied", "undone", "reverted"),
        "the entry's state before; the last three for an entry whose new code was left there",
    ),
    "while_changing": (_object("calls"), "calls while the code was changed"),
    "witness": (_list_of(_TEXT), "the events of an execution that shows it, in order"),
    "word": (_WORD, "eight hex digits"),
    "words": (_COUNT, "how many words were written, code and data"),
    "would_forbid": (_list_of(_TEXT), "steps or protocols, each of which forbids the counterexample"),
    "writes_data": (_BOOL, "the target can write words of data with code"),
}
"""The type of each field, and what it says. A text that is unknown, or that does not apply, is empty."""

_PLAN = (
    "kind location build_id state cpus compared method reason hunks sites changes hazards data_changes guards annexes"
)
_DONE = "entry words stopped stop_window_ns retries"

OBJECTS: dict[str, str] = {
    "failure": "error",
    "error": "name sentence notes exit_status unrestored?",
    "plan": f"{_PLAN}",
    "proved-plan": f"{_PLAN} proofs steps",
    "refused-plan": f"{_PLAN} proofs? steps? error",
    "applied-plan": f"{_PLAN} {_DONE} stays",
    "reverted": f"location reverts state method reason {_DONE} stays",
    "status": "state hunks",
    "processes": "file processes notes plan?",
    "process": "pid name result sentence entry? method? reason? words? stopped? stop_window_ns? retries? hunks? error?",
    "hunk": "site address state offset implied_nops difference",
    "site": "start end keep_out kept_out? entered?",
    "change": "address old new site? old_text? new_text? may_race? reason?",
    "guard": "address word",
    "annex": "address bytes from ends new_words? parts?",
    "part": "name address",
    "hazard": "name address sentence",
    "entry": "id began ended state reverts reverted_by subject location build_id release base incarnation method reason"
    " words note changes? data_changes? guards? sites? annexes? patch?",
    "static-keys": "location release build_id keys differing",
    "static-key": "name key_address key_state enabled initially linked key_sites",
    "key-site": "address site module init found text predicted_word predicted",
    "recovery": "id location was state note",
    "line": "address site word text hotpatchable data relocation kernel",
    "hook": "site address word text traced",
    "target": "location build_id release base incarnation modules kind cpus can_stop can_kick sees_pcs broadcast"
    " writes_data details",
    "module": "name build_id base",
    "difference": "patch hunk_sites not_expressed",
    "link": "patch hunk_sites replaced annex_names notes",
    "canonical": "patch warnings",
    "check": "old_words new_words profile safe reason",
    "proof": "places replacements protocol omitted executors idc dic broadcast unanswered profile verdict assumptions"
    " broken reason searches seconds counterexample would_forbid? litmus?",
    "protocol-answer": "file subject source question profile verdict expected assumptions broken reason searches"
    " seconds counterexample",
    "export": "name property file reason",
    "kernel-proofs": "location release build_id functions protocols assumed left_out proofs",
    "function": "name address instructions",
    "kernel-protocol": "protocol idc dic sequence reason",
    "replacement": "old_words new_words",
    "counterexample": "property model timeline",
    "step": "step cpu act by",
    "assembled": "address word unpredictable",
    "disassembled": "address word text",
    "test": "file name quantifier models",
    "unanswered-test": "file name error",
    "answer": "verdict reason cmodx executions choices cut witness cycle",
    "scenario": "scenario old_text new_text while_changing afterwards lesson",
    "calls": "old_calls torn_calls new_calls",
}  # fmt: skip
"""The fields of each object; `?` behind those that may be missing. No object has other fields."""

DOCUMENTS: dict[str, tuple[str | tuple[str, ...], ...]] = {
    "show": (("line",), "target"),
    "poke": ("plan", "proved-plan", "refused-plan", "applied-plan"),
    "diff": ("difference",),
    "link": ("link",),
    "fmt": ("canonical",),
    "apply": ("plan", "proved-plan", "refused-plan", "applied-plan", "processes"),
    "status": ("status", "processes"),
    "log": (("entry",),),
    "revert": ("reverted",),
    "recover": (("recovery",),),
    "asm": (("assembled", "failure"),),
    "disasm": (("disassembled", "failure"),),
    "check": ("check",),
    "prove": (("proof", "protocol-answer"), "kernel-proofs"),
    "litmus": (("test", "unanswered-test"),),
    "keys": ("static-keys", "plan", "refused-plan", "applied-plan"),
    "ftrace": (("hook",),),
    "demo": (("scenario",),),
}
"""What each command may print: one of these objects, or an array of the objects in parentheses. And `failure`."""


def schema(command: str = "") -> Schema:
    """The JSON Schema of one document of a command; of any command without a name."""
    kinds = DOCUMENTS[command] if command else [kind for kinds in DOCUMENTS.values() for kind in kinds]
    documents = [
        _object(kind) if isinstance(kind, str) else _list_of({"anyOf": [_object(name) for name in kind]})
        for kind in dict.fromkeys(kinds)
    ]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"a64patch {command} --json".replace("  ", " "),
        "anyOf": [*documents, _object("failure")],
        "$defs": {name: _fields(fields.split()) for name, fields in OBJECTS.items()},
    }


def _fields(names: list[str]) -> Schema:
    fields = {name.rstrip("?"): FIELDS[name.rstrip("?")] for name in names}
    return {
        "type": "object",
        "properties": {name: {**form, "description": says} for name, (form, says) in fields.items()},
        "required": [name for name in names if not name.endswith("?")],
        "additionalProperties": False,
    }


def type_of(form: Schema) -> str:
    """The type of a field in words, for docs/json.md."""
    names = {id(_ADDRESS): "address", id(_WORD): "word", id(_TIME): "time or null", id(_RANGE): "range"}
    names |= {id(_ADDRESS_OR_NULL): "address or null", id(_WORD_OR_NULL): "word or null"}
    if id(form) in names:
        return names[id(form)]
    if "$ref" in form:
        return str(form["$ref"]).rpartition("/")[2]
    if "anyOf" in form:
        return " or ".join(type_of(each) for each in form["anyOf"])
    if "enum" in form:
        return ", ".join(f"`{value}`" for value in form["enum"])
    if "items" in form:
        return f"list of {type_of(form['items'])}"
    if "additionalProperties" in form:
        return f"{type_of(form['additionalProperties'])}, by name"
    kinds = [form["type"]] if isinstance(form["type"], str) else form["type"]
    return " or ".join("text" if kind == "string" else kind for kind in kinds)


if __name__ == "__main__":
    import json

    print(json.dumps(schema(*sys.argv[1:2]), indent=2))

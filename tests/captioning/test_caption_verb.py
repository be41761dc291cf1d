"""latentkit.caption as a user types it: what is asked once, kept for good, and encoded then."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from chat_server import ChatServer, Reply, caption_of, completion, save_picture
from encode_process import Ended, encode, kill_points, run_verb
from omegaconf import OmegaConf

FOLDER = ("dataset=folder", "dataset.root=photos", "output_dir=out")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """tmp/work with photos/: six pictures p0 to p5, p1 with a caption of its own."""
    (tmp_path / "work" / "photos").mkdir(parents=True)
    for number in range(6):
        save_picture(tmp_path / "work" / "photos" / f"p{number}.png", number)
    (tmp_path / "work" / "photos" / "p1.txt").write_text("Its own words")
    return tmp_path / "work"


def caption(chat: ChatServer, work: Path, *arguments: str, **options: int) -> Ended:
    server = ("caption=openai", f"caption.url={chat.url}", "caption.retries=1")
    return run_verb("caption", *FOLDER, *server, *arguments, cwd=work, **options)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_has_no_caption_gets_one_and_is_not_asked_again(chat: ChatServer, work: Path) -> None:
    ended = caption(chat, work)
    assert ended.returncode == 0, ended.stderr
    assert sorted(chat.asked) == [0, 2, 3, 4, 5]
    assert sorted(path.name for path in (work / "out").iterdir()) == [".latentkit", "captions.jsonl"]
    found = lines(work / "out" / "captions.jsonl")
    assert [entry["key"] for entry in found] == ["p0", "p2", "p3", "p4", "p5"]
    prompt = chat.requests[0][2]["messages"][0]["content"][0]["text"]
    assert "one dense paragraph" in prompt
    picture = work / "photos" / "p2.png"
    assert found[1] == {
        "key": "p2",
        "caption": caption_of(2),
        "model": "gemma3:27b",
        "prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest(),
        "sha256": hashlib.sha256(picture.read_bytes()).hexdigest(),
        "size": picture.stat().st_size,
        "mtime_ns": picture.stat().st_mtime_ns,
        "time": found[1]["time"],
    }
    before = (work / "out" / "captions.jsonl").read_bytes()
    ended = caption(chat, work)
    assert ended.returncode == 0
    assert "5 written before" in ended.stderr
    assert len(chat.asked) == 5
    assert (work / "out" / "captions.jsonl").read_bytes() == before


def test_a_changed_picture_another_prompt_and_another_model(chat: ChatServer, work: Path) -> None:
    caption(chat, work)
    os.utime(work / "photos" / "p2.png")  # touched, not changed
    save_picture(work / "photos" / "p3.png", 13)
    assert caption(chat, work).returncode == 0
    assert chat.asked[5:] == [13]
    ended = caption(chat, work, "caption.model=other", "caption.prompt='What is it?'")
    assert "overwrite=true" in ended.stderr
    assert len(chat.asked) == 6
    chat.answer = lambda number, before: completion(f"Other words for {number}.")
    for _ in range(2):  # the second time there is nothing left to overwrite
        ended = caption(chat, work, "caption.model=other", "caption.prompt='What is it?'", "overwrite=true")
        assert ended.returncode == 0, ended.stderr
    assert sorted(chat.asked[6:]) == [0, 2, 4, 5, 13]
    found = lines(work / "out" / "captions.jsonl")
    assert [entry["key"] for entry in found] == ["p0"] * 2 + ["p2"] * 2 + ["p3"] * 3 + ["p4"] * 2 + ["p5"] * 2
    assert [entry["caption"] for entry in found[4:7]] == [
        caption_of(3),
        caption_of(13),
        "Other words for 13.",
    ]


def test_bad_pictures_and_refusals_are_quarantined_and_can_be_tried_again(
    chat: ChatServer, work: Path
) -> None:
    (work / "photos" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    chat.answer = lambda n, before: completion("I cannot help." if n == 4 else caption_of(n))
    stopped = caption(chat, work, "max_failures=0")
    assert stopped.returncode == 1
    assert "max_failures=0 allows" in stopped.stderr
    ended = caption(chat, work, "max_failures=0.5")
    assert ended.returncode == 3, ended.stderr
    held = lines(work / "out" / "quarantine.jsonl")
    assert [(entry["key"], entry["stage"], entry["encoders"]) for entry in held] == [
        ("broken", "decode", ["caption"]),
        ("p4", "caption", ["caption"]),
    ]
    assert held[1]["reason"] == "the model refused: I cannot help."
    asked = len(chat.asked)
    assert caption(chat, work, "max_failures=0.5").returncode == 3
    assert len(chat.asked) == asked
    chat.answer = lambda n, before: completion(caption_of(n))
    (work / "photos" / "broken.txt").write_text("A broken picture")
    assert caption(chat, work, "retry_quarantined=true").returncode == 0
    assert chat.asked[asked:] == [4]
    assert not (work / "out" / "quarantine.jsonl").exists()


def without_times(out: Path) -> dict[str, object]:
    """The outputs, but for when things happened; `lock` is an empty file that stays."""
    return {
        str(path.relative_to(out)): [entry | {"time": ""} for entry in lines(path)]
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def test_killed_anywhere_each_picture_is_asked_for_at_most_once_more(chat: ChatServer, work: Path) -> None:
    (work / "photos" / "broken.png").write_bytes(b"")
    arguments = ("caption.concurrency=2", "max_failures=0.5")
    clean = caption(chat, work, *arguments, "output_dir=clean")
    assert clean.returncode == 3, clean.stderr
    assert clean.changes is not None
    expected = without_times(work / "clean")
    assert sorted(expected) == ["captions.jsonl", "quarantine.jsonl"]
    # Answers that come together share a sync, so that another run may have a few calls less.
    for point in kill_points(clean.changes - 5, 4):
        out = f"output_dir=out{point}"
        chat.asked.clear()
        assert caption(chat, work, *arguments, out, kill_at=point).returncode == -signal.SIGKILL
        kept = len((work / f"out{point}" / "captions.jsonl").read_bytes().splitlines()) if chat.asked else 0
        assert caption(chat, work, *arguments, out).returncode == 3
        assert without_times(work / f"out{point}") == expected, f"killed at call {point}"
        assert sorted(set(chat.asked)) == [0, 2, 3, 4, 5]
        assert len(chat.asked) <= 5 + 2 + 1, "no more than those under way are asked for again"
        assert len(chat.asked) <= 10 - kept


def test_a_full_disk_is_one_line_and_the_rest_goes_on_later(chat: ChatServer, work: Path) -> None:
    chat.answer = lambda number, before: completion(f"Picture {number}: " + "many words " * 40)
    options = (*FOLDER, "caption=openai", f"caption.url={chat.url}", "caption.concurrency=1")
    command = [
        "bash",
        "-c",
        'ulimit -f 2; exec "$@"',
        "bash",
        sys.executable,
        "-m",
        "latentkit.caption",
        *options,
    ]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=work, timeout=60)
    assert ended.returncode == 1, ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("latentkit: cannot write out/captions.jsonl: File too large: ")
    assert "Traceback" not in ended.stderr
    whole = lines(work / "out" / "captions.jsonl")
    assert [entry["key"] for entry in whole] == ["p0", "p2"]
    assert caption(chat, work).returncode == 0
    assert [entry["key"] for entry in lines(work / "out" / "captions.jsonl")] == [
        "p0",
        "p2",
        "p3",
        "p4",
        "p5",
    ]
    assert sorted(chat.asked) == [0, 2, 3, 3, 4, 5]
    assert not list(work.rglob("*.tmp"))


def test_a_cut_line_costs_its_caption_alone(chat: ChatServer, work: Path) -> None:
    caption(chat, work)
    path = work / "out" / "captions.jsonl"
    whole = path.read_bytes()
    entries = whole.splitlines(keepends=True)
    path.write_bytes(entries[0] + b'{"key": 3}\n' + b"".join(entries[2:-1]) + entries[-1][:50])
    ended = caption(chat, work)
    assert ended.returncode == 0, ended.stderr
    assert sorted(chat.asked[5:]) == [2, 5]
    assert [entry["key"] for entry in lines(path)] == ["p0", "p2", "p3", "p4", "p5"]
    assert path.with_name("captions.jsonl.bad").read_bytes() == b'{"key": 3}\n'


def test_an_interrupt_keeps_what_is_written(chat: ChatServer, work: Path) -> None:
    ended = caption(chat, work, "caption.concurrency=1", interrupt_at=8)
    assert ended.returncode == 130, ended.stderr
    assert "the same command goes on" in ended.stderr
    written = len(lines(work / "out" / "captions.jsonl"))
    assert 0 < written < 5
    assert caption(chat, work).returncode == 0
    assert sorted(chat.asked) == [0, 2, 3, 4, 5]


def test_encode_captions_first_and_counts_what_stays_incomplete(chat: ChatServer, work: Path) -> None:
    long = "Words without end. " * 6  # more than 77 bytes, which are random weights' tokens
    replies = {0: completion(long), 4: completion("", "length")}
    chat.answer = lambda n, before: replies.get(n, completion(caption_of(n)))
    arguments = (*FOLDER, "weights=random", "encoder=[dinov3,t5]", "max_failures=0.5")
    plain = encode(*arguments, cwd=work)
    assert plain.returncode == 0, plain.stderr
    assert "incomplete: 5 pictures" in plain.stderr
    summary = json.loads((work / "out" / "summary.json").read_text())
    assert summary["incomplete"] == 5
    records = {record["image_id"]: record for record in lines(work / "out" / "records.jsonl")}
    assert [records[f"p{n}"]["encoders"] for n in range(2)] == [["dinov3"], ["dinov3", "t5"]]

    server = ("caption=openai", f"caption.url={chat.url}")
    ended = encode(*arguments, *server, cwd=work)
    assert ended.returncode == 3, ended.stderr
    summary = json.loads((work / "out" / "summary.json").read_text())
    assert summary["incomplete"] == 1
    assert summary["conversions"]["caption cut"] == 1
    assert [entry["key"] for entry in summary["quarantine"]] == ["p4"]
    assert [(part["encoder"], part["done"]) for part in summary["encoders"]] == [("dinov3", 0), ("t5", 4)]
    records = {record["image_id"]: record for record in lines(work / "out" / "records.jsonl")}
    assert records["p2"]["caption"] == caption_of(2)
    assert records["p1"]["caption"] == "Its own words"
    assert records["p2"]["t5_attention_mask"][: len(caption_of(2)) + 1] == [1] * (len(caption_of(2)) + 1)
    assert records["p4"]["encoders"] == ["dinov3"]
    assert "t5_attention_mask" not in records["p4"]
    assert not (work / "out" / "t5" / "p4.npy").exists()

    again = encode(*arguments, cwd=work)  # no captioner: what was written is heard all the same
    assert again.returncode == 0, again.stderr
    assert "nothing to do" in again.stderr
    summary = json.loads((work / "out" / "summary.json").read_text())
    assert (summary["incomplete"], summary["conversions"]) == (1, {"caption cut": 1})
    assert "1 caption longer" in again.stderr


def test_the_photo_library_s_captions_can_be_written_anew(chat: ChatServer, tmp_path: Path) -> None:
    """Its records repeat what was written; a person's words in them stay."""
    work = tmp_path / "work"
    for name in ("raw", "approved", "derived"):
        (work / "data" / name).mkdir(parents=True)
    for number in range(3):
        save_picture(work / "data" / "raw" / f"x{number}.png", number)
        (work / "data" / "raw" / f"x{number}.png").rename(work / "data" / "raw" / f"x{number}")
        (work / "data" / "approved" / f"x{number}.png").symlink_to(f"../raw/x{number}")
    server = ("dataset=crawlr", "caption=openai", f"caption.url={chat.url}")
    arguments = ("encoder=t5", "weights=random")
    assert encode(*server, *arguments, cwd=work).returncode == 0
    path = work / "data" / "derived" / "approved_image_dataset.jsonl"
    assert [record["caption"] for record in lines(path)] == [caption_of(n) for n in range(3)]
    path.write_text(path.read_text().replace(caption_of(1), "A person's words"))
    chat.answer = lambda number, before: completion(f"New words for {number}.")
    ended = run_verb("caption", *server, "caption.model=new", "overwrite=true", cwd=work)
    assert ended.returncode == 0, ended.stderr
    assert sorted(chat.asked[3:]) == [0, 2]
    assert encode("dataset=crawlr", *arguments, cwd=work).returncode == 0
    assert [record["caption"] for record in lines(path)] == [
        "New words for 0.",
        "A person's words",
        "New words for 2.",
    ]
    assert [record["encoders"] for record in lines(path)] == [["t5"]] * 3


def test_what_the_photo_library_s_owner_says_later_is_heard(chat: ChatServer, tmp_path: Path) -> None:
    """A list that gains a caption or changes it, a text file that comes and goes, words in the record."""
    for name in ("raw", "approved", "derived"):
        (tmp_path / "data" / name).mkdir(parents=True)
    save_picture(tmp_path / "data" / "approved" / "x.png", 1)
    text, photos = tmp_path / "data" / "approved" / "x.txt", tmp_path / "data" / "photos.jsonl"
    path = tmp_path / "data" / "derived" / "approved_image_dataset.jsonl"
    arguments = ("dataset=crawlr", "encoder=t5", "weights=random")

    def encoded(*more: str) -> tuple[str, str | None]:
        ended = encode(*arguments, *more, cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
        (record,) = lines(path)
        assert record["encoders"] == ["t5"] * bool(record["caption"])
        return record["caption"], record.get("caption_source", {}).get("from")

    def listed(**said: str) -> None:
        photos.write_text(json.dumps({"filename": "x", "metadata": said}) + "\n")

    assert encoded("caption=openai", f"caption.url={chat.url}") == (caption_of(1), "model")
    listed(description="listed")
    assert encoded() == ("listed", "list")
    listed(description="corrected")
    assert encoded() == ("corrected", "list")
    text.write_text("beside")
    assert encoded() == ("beside", "text file")
    text.unlink()
    assert encoded() == ("corrected", "list")
    path.write_text(path.read_text().replace('"corrected"', '"by hand"', 1))
    listed(description="corrected again")
    assert encoded() == ("by hand", None)


def test_a_model_on_this_machine(gemma_folder: Path, work: Path) -> None:
    """The verb end to end; what the model says is test_transformers_captioner's."""
    ended = run_verb(
        *("caption", *FOLDER, "caption=transformers", f"caption.model={gemma_folder}", "max_failures=1"),
        *("caption.device=cpu", "caption.max_new_tokens=10", "caption.prompt='a photo of the'"),
        cwd=work,
    )
    assert ended.returncode in (0, 3), ended.stderr
    found = lines(work / "out" / "captions.jsonl")
    assert found
    assert {entry["model"] for entry in found} == {f"local:{gemma_folder.name}"}
    held = lines(work / "out" / "quarantine.jsonl") if ended.returncode else []
    assert len(found) + len(held) == 5
    for noise in ("Loading", "Warning", "Traceback"):
        assert noise not in ended.stderr


def test_a_dry_run_asks_nobody_and_touches_nothing(chat: ChatServer, work: Path) -> None:
    before = sorted(work.rglob("*"))
    for verb in ("caption", "encode"):
        more = ("weights=random", "encoder=t5") if verb == "encode" else ()
        server = ("caption=openai", f"caption.url={chat.url}")
        ended = run_verb(verb, *FOLDER, *server, *more, "dry_run=true", cwd=work)
        assert ended.returncode == 0, ended.stderr
        assert "5 to write by gemma3:27b" in ended.stderr
        assert "nothing was touched" in ended.stderr
    assert sorted(work.rglob("*")) == before
    assert chat.asked == []


def test_a_server_that_is_gone_is_one_line(chat: ChatServer, work: Path) -> None:
    chat.answer = lambda number, before: Reply(b'{"error": "no such model"}', 404)
    ended = caption(chat, work)
    assert ended.returncode == 1
    assert "HTTP 404: no such model; check caption.url and caption.model" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_server_that_breaks_down_costs_no_picture(chat: ChatServer, work: Path) -> None:
    chat.answer = lambda n, before: Reply(b"down", 500) if n >= 3 else completion(caption_of(n))
    ended = caption(chat, work, "caption.concurrency=1", "caption.retries=0")
    assert ended.returncode == 1, ended.stderr
    assert "fails, 3 pictures in a row; the last: HTTP 500: down" in ended.stderr.splitlines()[-1]
    assert [entry["key"] for entry in lines(work / "out" / "captions.jsonl")] == ["p0", "p2"]
    assert not (work / "out" / "quarantine.jsonl").exists()


def test_nobody_is_chosen_by_surprise_and_answers_come_without_torch(work: Path) -> None:
    for arguments, text in (
        ((), "caption=openai"),
        (("caption=openai", "caption.url=nowhere"), "caption.url=nowhere"),
        (("caption=gemma",), "none, openai, transformers"),
        (("caption=openai", "caption.concurency=3"), "did you mean concurrency"),
        (("caption=transformers", "caption.dtype=int4"), "choose one of auto"),
    ):
        command = [sys.executable, "-X", "importtime", "-m", "latentkit.caption", *FOLDER, *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=work, timeout=60)
        assert ended.returncode == 2
        said = [line for line in ended.stderr.splitlines() if not line.startswith("import time:")]
        assert len(said) == 1
        assert text in said[0]
        imported = {line.split("|")[-1].strip() for line in ended.stderr.splitlines() if "|" in line}
        assert not imported & {"torch", "lightning", "transformers", "diffusers", "torchvision"}
    assert not (work / "out").exists()


def test_both_captioners_ask_the_same(work: Path) -> None:
    prompts = set()
    for name in ("openai", "transformers"):
        command = [sys.executable, "-m", "latentkit.caption", "--cfg", "job", *FOLDER, f"caption={name}"]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=work, timeout=60, check=True)
        prompts.add(OmegaConf.create(ended.stdout).caption.prompt)
    assert len(prompts) == 1

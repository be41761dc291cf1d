"""A server's captions over real HTTP: what is asked, what is tried again, what fails, what ends the run."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from threading import Barrier, BrokenBarrierError, Lock

import pytest
from chat_server import ChatServer, Reply, caption_of, completion, plain

from latentkit.captioning import Answer, OpenAICaptioner
from latentkit.errors import LatentkitError, UsageError


def captioner(url: str, **options: object) -> OpenAICaptioner:
    return OpenAICaptioner(**({"url": url, "model": "gemma3:27b", "prompt": "Describe it."} | options))


def answers(chat: ChatServer, *numbers: int, **options: object) -> dict[int, Answer]:
    with captioner(chat.url, **options).open() as describe:
        return {answer.number: answer for answer in describe((n, plain(n, 640, 320)) for n in numbers)}


def test_the_request_is_openai_s_and_the_picture_a_bounded_jpeg(
    chat: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-123")
    got = answers(chat, 3, longest_side=100, api_key_env="SOME_KEY", max_new_tokens=77)
    assert got == {3: Answer(3, caption_of(3))}
    ((path, headers, body),) = chat.requests
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer sk-123"
    assert headers["Content-Type"] == "application/json"
    assert {name: body[name] for name in ("model", "max_tokens", "temperature", "stream")} == {
        "model": "gemma3:27b",
        "max_tokens": 77,
        "temperature": 0,
        "stream": False,
    }
    assert body["messages"][0]["content"][0]["text"] == "Describe it."
    assert chat.sizes == [(100, 50)]


def test_a_small_picture_is_not_scaled_up_and_no_key_is_sent_unasked(chat: ChatServer) -> None:
    answers(chat, 1, longest_side=4000)
    assert chat.sizes == [(640, 320)]
    assert "Authorization" not in chat.requests[0][1]


def test_what_may_pass_is_asked_again(chat: ChatServer) -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    troubles = {
        0: Reply(b'{"error": {"message": "slow down"}}', 429, {"Retry-After": "1"}),
        1: Reply(b"overloaded", 503, {"Retry-After": soon}),
        2: Reply(b'{"error": "out of memory"}', 500),
        3: Reply(b"<html>a proxy's page</html>"),
        4: Reply(completion("never whole").body[:30], 200, {"Content-Length": "400", "Connection": "close"}),
        5: Reply(b'{"choices": []}'),
    }
    chat.answer = lambda number, before: completion(caption_of(number)) if before else troubles[number]
    began = time.monotonic()
    got = answers(chat, *troubles, concurrency=6)
    assert {n: answer.caption for n, answer in got.items()} == {n: caption_of(n) for n in troubles}
    assert sorted(chat.asked) == sorted([*troubles] * 2)
    assert time.monotonic() - began >= 1  # as the server asked


PICTURE_S_OWN = {
    "empty": (completion(""), "the model's answer is empty"),
    "null": (completion(None), "the model's answer is empty"),
    "blank": (completion(" \n\t "), "the model's answer is empty"),
    "length": (completion("A long and winding", "length"), "cut off after 18 characters"),
    "refusal": (completion(None, refusal="No."), "the model refused: No."),
    "filter": (completion("", "content_filter"), "the model refused: content_filter"),
    "words": (completion("I'm sorry, but I can't help with that."), "the model refused: I'm sorry"),
    "bad request": (Reply(b'{"error": {"message": "image\\ntoo odd"}}', 400), "HTTP 400: image too odd"),
}


@pytest.mark.parametrize(("reply", "reason"), PICTURE_S_OWN.values(), ids=PICTURE_S_OWN)
def test_a_picture_s_failure_is_its_own_and_not_asked_again(
    chat: ChatServer, reply: Reply, reason: str
) -> None:
    chat.answer = lambda number, before: reply if number == 2 else completion(caption_of(number))
    got = answers(chat, 1, 2, 3)
    assert [got[1].caption, got[2].caption, got[3].caption] == [caption_of(1), "", caption_of(3)]
    assert reason in got[2].reason
    assert chat.asked.count(2) == 1


def test_an_answer_becomes_one_clean_paragraph(chat: ChatServer) -> None:
    chat.answer = lambda number, before: completion(
        "  A fox\u2019s tail,\r\n\r\nin\x1b[31m \ud800snow.\x00 \n"
    )
    assert answers(chat, 1)[1].caption == "A fox\u2019s tail, in [31m snow."


def test_a_server_that_always_fails_costs_the_picture_its_tries(chat: ChatServer) -> None:
    chat.answer = lambda number, before: Reply(b'{"error": "it broke"}', 500)
    assert answers(chat, 1, retries=1) == {1: Answer(1, reason="HTTP 500: it broke")}
    assert chat.asked == [1, 1]


PAGE = Reply(b"<html>a proxy's page</html>")


@pytest.mark.parametrize("trouble", [Reply(b"it broke", 500), PAGE], ids=["error", "page"])
def test_a_server_that_fails_at_picture_after_picture_ends_the_run(chat: ChatServer, trouble: Reply) -> None:
    """What came before is handed out; no picture is blamed."""
    chat.answer = lambda number, before: trouble if number else completion(caption_of(number))
    with captioner(chat.url, retries=0, concurrency=1).open() as describe:
        found = describe((n, plain(n)) for n in range(20))
        assert next(found) == Answer(0, caption_of(0))
        with pytest.raises(LatentkitError, match=r"/v1 fails, 3 pictures in a row; .*kept$") as caught:
            next(found)
    assert "\n" not in str(caught.value)
    assert chat.asked == [0, 1, 2, 3]


def test_a_picture_at_which_a_server_fails_alone_is_the_one_to_blame(chat: ChatServer) -> None:
    bad = {0, 1, 3, 5, 6}
    chat.answer = lambda number, before: PAGE if number in bad else completion(caption_of(number))
    got = answers(chat, *range(7), retries=0, concurrency=1)
    assert {number for number, answer in got.items() if "not a chat completion" in answer.reason} == bad
    assert {number for number, answer in got.items() if answer.caption} == {2, 4}


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "3600"}])
def test_a_deadline_ends_dribbling_and_waiting(chat: ChatServer, headers: dict[str, str]) -> None:
    slow = Reply(b"x" * 100, 200, drip=0.2)
    chat.answer = lambda number, before: Reply(b"later", 429, headers) if headers else slow
    began = time.monotonic()
    got = answers(chat, 1, deadline=1)
    assert ("HTTP 429" if headers else "within 1 s") in got[1].reason
    assert time.monotonic() - began < 15  # neither the twenty seconds of the body nor the hour
    assert chat.asked == [1]


@pytest.mark.parametrize(
    ("status", "advice"), [(401, "caption.api_key_env"), (404, "caption.model"), (302, "caption.url")]
)
def test_a_server_that_does_not_serve_us_ends_the_run(chat: ChatServer, status: int, advice: str) -> None:
    chat.answer = lambda number, before: Reply(
        b'{"error": "model \\"gemma3:27b\\" not found"}', status, {"Location": "/v1/chat/completions"}
    )
    with pytest.raises(LatentkitError, match=rf"answers HTTP {status}: model .* not found; .*{advice}"):
        answers(chat, *range(20))
    assert len(chat.asked) <= 8  # those under way, not the collection


def test_a_server_that_is_not_there_ends_the_run() -> None:
    with (
        captioner("http://127.0.0.1:9/v1", retries=1).open() as describe,
        pytest.raises(
            LatentkitError, match=r"^cannot reach 127\.0\.0\.1:9: connection refused; .*caption\.url"
        ) as caught,
    ):
        list(describe([(0, plain(0))]))
    assert "\n" not in str(caught.value)


def test_a_name_that_nobody_has_is_named() -> None:
    with (
        captioner("http://nobody.invalid/v1", retries=0).open() as describe,
        pytest.raises(LatentkitError, match=r"^cannot reach nobody\.invalid:80: [a-z ]+; start"),
    ):
        list(describe([(0, plain(0))]))


def test_as_many_pictures_are_under_way_as_was_asked_for(chat: ChatServer) -> None:
    """The server answers only when three requests have met; a fourth at once would be seen."""
    meeting, lock, under_way = Barrier(3), Lock(), [0, 0]

    def answer(number: int, before: int) -> Reply:
        with lock:
            under_way[0] += 1
            under_way[1] = max(under_way)
        try:
            meeting.wait(20)
        except BrokenBarrierError:
            return Reply(b"alone", 400)
        finally:
            with lock:
                under_way[0] -= 1
        return completion(caption_of(number))

    chat.answer = answer
    got = answers(chat, *range(9), concurrency=3)
    assert {n: answer.caption for n, answer in got.items()} == {n: caption_of(n) for n in range(9)}
    assert under_way[1] == 3


def test_pictures_are_taken_as_there_is_room(chat: ChatServer) -> None:
    taken: list[int] = []

    def pictures():
        for number in range(20):
            taken.append(number)
            yield number, plain(number)

    with captioner(chat.url, concurrency=2).open() as describe:
        next(describe(pictures()))
    assert len(taken) <= 3


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"url": "127.0.0.1:11434"}, r"caption\.url=127\.0\.0\.1:11434: give http://"),
        ({"url": "file:///etc/passwd"}, r"caption\.url=file:"),
        ({"api_key_env": "NO_SUCH_VARIABLE"}, r"caption\.api_key_env=NO_SUCH_VARIABLE: .* not set"),
        ({"concurrency": 0}, r"caption\.concurrency=0: must be at least 1"),
        ({"model": ""}, r"caption\.model is empty"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        captioner(**({"url": "http://127.0.0.1/v1"} | options))

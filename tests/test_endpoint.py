"""Servers: a scripted one that fails in every way, and the real one of transformers."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from derta import evaluate, generate
from derta.attacks import ATTACKS
from derta.files import read_jsonl
from derta.generate import Case, Prompt, user
from derta.judges.endpoint import Endpoint
from derta.requests import spread

CASES = [Case(f"b{i}/direct", f"b{i}", "direct", False, 0, user(f"Question {i}")) for i in range(12)]
# What the n-th question meets before it is answered; "never" goes on for ever.
SCRIPT = [
    ["429"],
    ["500"],
    ["garbage"],
    ["half"],
    ["nothing"],
    ["no choices"],
    ["429", "half", "garbage", "nothing"],
    ["not json", "502"],
    [],
]


def message(content, finish="stop", **more):
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content} | more}
    return 200, {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}


def error(text, status=400, **more):
    return status, {"error": {"message": text} | more}


@pytest.fixture
def server():
    """A server that turns the last words around, after it has failed as `script` says, by the number in the text.

    A text in `answers` (``all`` for any) gets this status and body; `refuses` are parameters that it does not know.
    """
    state = type("Server", (), {"script": {}, "asked": Counter(), "bodies": [], "refuses": set(), "answers": {}})
    done = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.bodies.append((self.path, body))
            text = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
            plan = state.script.get(text, [])
            fault = plan[min(state.asked[text], len(plan) - 1)] if plan[state.asked[text] :] or "never" in plan else ""
            state.asked[text] += 1
            if state.refuses & body.keys():
                return self.answer(b'{"error": {"message": "Unexpected fields"}}', 422)
            if answer := state.answers.get(text, state.answers.get("all")):
                return self.answer(json.dumps(answer[1]).encode(), answer[0])
            choice = {"index": 0, "finish_reason": "stop"}
            choice |= (
                {"text": text[::-1]} if "prompt" in body else {"message": {"role": "assistant", "content": text[::-1]}}
            )
            usage = {"prompt_tokens": 3, "completion_tokens": len(text), "total_tokens": 3 + len(text)}
            whole = {"id": "x", "object": "x", "created": 0, "model": "m", "choices": [choice], "usage": usage}
            content = json.dumps(whole).encode()
            if fault in ("429", "500", "502"):
                self.answer(b'{"error": {"message": "busy"}}', int(fault))
            elif fault == "garbage":
                self.answer(b'{"choices": [{"mess')
            elif fault == "not json":
                self.answer(b"<html>", kind="text/html")
            elif fault == "no choices":
                self.answer(b'{"choices": []}')
            elif fault == "half":
                self.answer(content[: len(content) // 2], length=len(content))
            elif fault in ("nothing", "never"):
                done.wait(1.5 if fault == "nothing" else 0.4)
                self.close_connection = True
            else:
                self.answer(content)

        def answer(self, content, status=200, length=None, kind="application/json"):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(length or len(content)))
            self.end_headers()
            self.wfile.write(content)
            self.close_connection = length is not None

        def log_message(self, *args):
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request, client_address):
            pass

    served = Quiet(("127.0.0.1", 0), Handler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{served.server_port}/v1"
    yield state
    done.set()
    served.shutdown()
    served.server_close()


@pytest.fixture
def naps(monkeypatch):
    """How long the client would have waited between its tries."""
    waited = []
    monkeypatch.setattr("openai._base_client.time.sleep", waited.append)
    return waited


def run(server, path, tries=6):
    endpoint = Endpoint("m", server.url, timeout=0.5, tries=tries)
    return generate.run(endpoint, CASES, path, batch_size=4, max_new_tokens=5)


def test_every_failure_is_tried_again_and_the_file_is_that_of_an_undisturbed_run(server, naps, tmp_path):
    assert run(server, tmp_path / "whole.jsonl") == 12
    assert set(server.asked.values()) == {1}
    server.asked.clear()
    server.script = {f"Question {i}": faults for i, faults in enumerate(SCRIPT)}
    assert run(server, tmp_path / "x.jsonl") == 12
    assert (tmp_path / "x.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert [server.asked[f"Question {i}"] for i in range(12)] == [len(f) + 1 for f in SCRIPT] + [1, 1, 1]
    assert len(naps) == sum(map(len, SCRIPT))
    rows = list(read_jsonl(tmp_path / "x.jsonl"))
    assert [row["case_id"] for row in rows] == [case.case_id for case in CASES]
    assert rows[0]["completion"] == "0 noitseuQ"
    assert (rows[0]["prompt"], rows[0]["start"]) == ('[{"role": "user", "content": "Question 0"}]', "")
    assert (rows[0]["model"], rows[0]["new_tokens"], rows[0]["prompt_tokens"]) == ("m", 10, 3)


def test_the_waits_grow_exponentially(server, naps):
    server.script = {"Q": ["500"] * 4}
    Endpoint("m", server.url, tries=5).complete([user("Q")], max_new_tokens=5)
    assert len(naps) == 4
    assert all(0.75 * 0.5 * 2**i <= nap <= 0.5 * 2**i for i, nap in enumerate(naps))


def test_after_the_last_try_the_run_ends_and_the_next_goes_on(server, naps, tmp_path):
    run(server, tmp_path / "whole.jsonl")
    server.asked.clear()
    server.script = {"Question 7": ["never"]}
    with pytest.raises(ConnectionError, match=r"no usable answer in up to 3 tries .* start again to go on"):
        run(server, tmp_path / "x.jsonl", tries=3)
    assert server.asked["Question 7"] == 3
    kept = {row["case_id"] for row in read_jsonl(tmp_path / "x.jsonl")}
    assert len(kept) >= 4
    server.asked.clear()
    server.script = {}
    assert run(server, tmp_path / "x.jsonl") == 12 - len(kept)
    assert set(server.asked) == {case.prompt.messages[0]["content"] for case in CASES if case.case_id not in kept}
    assert (tmp_path / "x.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_plain_text_goes_to_raw_completions_and_a_started_reply_is_continued(server):
    endpoint = Endpoint("m", server.url)
    plain, started = endpoint.complete([Prompt((), "Step 1:"), user("Why?", "Well,")], max_new_tokens=5)
    assert (plain.text, started.text) == (":1 petS", ",lleW")
    bodies = dict(server.bodies)
    assert bodies["/v1/completions"]["prompt"] == "Step 1:"
    chat = bodies["/v1/chat/completions"]
    assert chat["messages"][-1] == {"role": "assistant", "content": "Well,"}
    assert (chat["continue_final_message"], chat["add_generation_prompt"]) == (True, False)
    assert chat["temperature"] == 0


def test_a_parameter_that_a_server_does_not_take_is_named(server):
    endpoint = Endpoint("m", server.url)
    server.refuses = {"continue_final_message"}
    with pytest.raises(ValueError, match=r"does not take continue_final_message, add_.* such as vLLM"):
        endpoint.complete([user("Why?", "Well,")], max_new_tokens=5)
    with pytest.raises(ValueError, match="ignores bad_words: a completion holds the forbidden 'yrroS'"):
        endpoint.complete([user("Sorry")], max_new_tokens=5, forbidden=["yrroS"])
    assert server.bodies[-1][1]["bad_words"] == ["yrroS"]
    server.refuses = {"messages"}
    with pytest.raises(ConnectionError, match="Unexpected fields"):
        endpoint.complete([user("Why?")], max_new_tokens=5)
    with pytest.raises(ConnectionError, match="Unexpected fields"):
        endpoint.complete([user("Why?", "Well,")], max_new_tokens=5)


@pytest.mark.parametrize("start", ["", "Sure,"])
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (error("The prompt was filtered", code="content_filter"), "content_filter"),
        (error("x", innererror={"code": "ResponsibleAIPolicyViolation"}), "content_filter"),
        (error("Your input was flagged", 200, code=403), "content_filter"),
        (error("Your input was flagged", 403, code=403), "content_filter"),
        (error("maximum context length is 4096 tokens"), "error: maximum context length is 4096 tokens"),
        ((413, "Too large"), "error: Too large"),
        ((422, {"detail": "half an emoji \ud83d"}), "error: half an emoji \ufffd"),
        (error("Provider returned error: too long", 200), "error: Provider returned error: too long"),
        (error("no" * 9000), f"error: {'no' * 250}…"),
    ],
)
def test_a_prompt_that_is_not_taken_is_recorded_and_the_others_go_on(
    server, naps, tmp_path, capsys, answer, reason, start
):
    server.answers = dict.fromkeys(("Question 3", "Question 4", "3 " + start, "4 " + start), answer)
    cases = [
        replace(case, prompt=Prompt(case.prompt.messages, start and f"{i} {start}")) for i, case in enumerate(CASES)
    ]
    path = tmp_path / "x.jsonl"
    generate.run(Endpoint("m", server.url), cases, path, batch_size=1, max_new_tokens=5)
    rows = list(read_jsonl(path))
    assert [i for i, row in enumerate(rows) if not row["completion"]] == [3, 4]
    assert {row["finish_reason"] for row in rows[3:5]} == {reason}
    out, err = capsys.readouterr()
    assert not out
    assert f"2 of 12 cases have no answer: {reason}; to ask again, delete their rows" in err
    assert not naps
    server.asked.clear()
    assert generate.run(Endpoint("m", server.url), cases, path, batch_size=1, max_new_tokens=5) == 0
    assert not server.asked
    assert "2 of 12 cases" in capsys.readouterr().err
    path.write_text("".join(line for line in path.read_text().splitlines(True) if '"completion": ""' not in line))
    server.answers = {}
    assert generate.run(Endpoint("m", server.url), cases, path, batch_size=1, max_new_tokens=5) == 2


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (error("Incorrect API key provided", 401), "Incorrect API key provided"),
        (error("Your account was flagged", 403), "Your account was flagged"),
        ((403, "Forbidden"), "Forbidden"),
        (error("The model `m` does not exist", 404, code="model_not_found"), "The model `m` does not exist"),
        ((404, ""), "Error code: 404"),
        (error("No credits", 402), "No credits"),
        (error("No credits", 200, code=402), "No credits"),
        (error("m is not a valid model ID"), "m is not a valid model ID"),
        (error("maximum context length is 2 tokens"), "maximum context length is 2 tokens"),
        (error("temperature does not support 0"), "temperature does not support 0; leave it out with temperature="),
    ],
)
@pytest.mark.parametrize("start", ["", "Sure,"])
def test_what_hits_every_prompt_stops_the_run(server, naps, tmp_path, answer, said, start):
    server.answers = {"all": answer}
    cases = [replace(case, prompt=Prompt(case.prompt.messages, start)) for case in CASES]
    with pytest.raises(ConnectionError) as stopped:
        generate.run(Endpoint("m", server.url), cases, tmp_path / "x.jsonl", batch_size=2, max_new_tokens=5)
    assert str(stopped.value).startswith(f"{server.url}: {said}")
    assert not re.search(r"start again|tries", str(stopped.value))
    assert sum(server.asked.values()) <= 6
    assert not naps
    assert not (tmp_path / "x.jsonl").exists()


def test_a_form_that_is_not_taken_stops_the_run_even_after_others_were(server):
    endpoint = Endpoint("m", server.url)
    endpoint.complete([user("Why?")], max_new_tokens=5)
    server.answers = {"all": error("System role not supported")}
    system = Prompt(({"role": "system", "content": "Be brief."}, *user("Why?").messages))
    with pytest.raises(ConnectionError, match="System role not supported"):
        endpoint.complete([system], max_new_tokens=5)
    with pytest.raises(ConnectionError, match="System role not supported"):
        endpoint.complete([user("Why?")], max_new_tokens=5000)


def test_a_harmless_prompt_is_tried_once_at_most(server):
    endpoint = Endpoint("m", server.url)
    server.answers = {"Why?": error("too long")}
    for _ in range(3):
        assert endpoint.complete([user("Why?")], max_new_tokens=5)[0].finish_reason == "error: too long"
    assert server.asked == {"Why?": 3, "Hello": 1}


def test_an_error_in_a_200_is_tried_again_if_it_may_pass(server, naps):
    server.answers = {"all": error("Upstream is busy", 200, code=502)}
    with pytest.raises(ConnectionError, match=r"up to 3 tries \(.*Upstream is busy\)"):
        Endpoint("m", server.url, tries=3).complete([user("Why?")], max_new_tokens=5)
    assert len(naps) == 2


@pytest.mark.parametrize("key", ["sk-CANARY", "sk-CANARY\n", " sk-CANARY\r\n"])
@pytest.mark.parametrize("status", [400, 401, 500])
def test_the_key_stands_in_no_message(server, naps, monkeypatch, key, status):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    server.answers = {"all": error("bad header Bearer sk-CANARY", status)}
    endpoint = Endpoint("m", server.url, tries=2)
    with pytest.raises(ConnectionError, match=r"bad header Bearer \[key\]") as stopped:
        endpoint.complete([user("Why?")], max_new_tokens=5)
    assert "CANARY" not in "".join(traceback.format_exception(stopped.value)) + repr(endpoint)
    server.answers = {"Why?": error("bad header Bearer sk-CANARY")}
    assert endpoint.complete([user("Why?")], max_new_tokens=5)[0].finish_reason == "error: bad header Bearer [key]"


@pytest.mark.parametrize("key", ["sk-CAN\nARY", "sk-CAN ARY", "sk-CANARY…"])
def test_a_key_that_cannot_be_one_is_an_error_that_does_not_show_it(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ValueError, match="OPENAI_API_KEY holds a space, a line break or more") as stopped:
        Endpoint("m", "http://127.0.0.1:9/v1")
    assert "CAN" not in str(stopped.value)


def test_an_empty_key_is_none(server, monkeypatch):
    for key in ("", " \n"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        assert Endpoint("m", server.url).complete([user("abc")], max_new_tokens=5)[0].text == "cba"


@pytest.mark.parametrize(
    ("address", "spelling"),
    [
        *(("https://api.host/v1", f"https://{rest}") for rest in ("api.host/v1/", "API.host/v1", "Api.Host:443/v1//")),
        *(("https://api.host/v1", "HTTPS://api.host:443/v1"), ("http://localhost", "http://localhost:80")),
    ],
)
def test_another_spelling_of_an_address_is_the_same_server(address, spelling):
    assert Endpoint("m", spelling).fingerprint() == Endpoint("m", address).fingerprint()


@pytest.mark.parametrize("other", ["http://api.host/v1", "https://api.host:8000/v1", "https://api.host/V1"])
def test_another_address_is_another_server(other):
    assert Endpoint("m", other).fingerprint() != Endpoint("m", "https://api.host/v1").fingerprint()


@pytest.mark.parametrize(
    ("answer", "start", "text", "reason"),
    [
        (message(None, refusal="I'm sorry, I can't help with that."), "", "I'm sorry, I can't help with that.", "stop"),
        (message(None, "content_filter"), "", "", "content_filter"),
        (message(None, "length", reasoning_content="Hm"), "", "", "length"),
        (message(None, "tool_calls", tool_calls=[]), "", "", "tool_calls"),
        (message([{"type": "thinking", "thinking": []}, {"type": "text", "text": "No."}]), "", "No.", "stop"),
        (message([{"type": "output_text", "text": "No, "}, {"type": "text", "text": "no."}]), "", "No, no.", "stop"),
        (message("Have fun \ud83d"), "", "Have fun \ufffd", "stop"),
        (message("\ud83d\ude00"), "", "\U0001f600", "stop"),
        (message("Sure, take the tram."), "Sure,", " take the tram.", "stop"),
        (message("Surely not."), "Sure,", "Surely not.", "stop"),
        (message("No. Sure,"), "Sure,", "No. Sure,", "stop"),
        (message("Fine.", None), "", "Fine.", "stop"),
        (error("Provider returned error: too long")[1:], "", "", "error: Provider returned error: too long"),
        (error("Filtered", code="content_filter"), "", "", "content_filter"),
        (error("Filtered", innererror={"code": "content_filter"}), "Sure,", "", "content_filter"),
        (error("maximum context length is 4096 tokens"), "Sure,", "", "error: maximum context length is 4096 tokens"),
        (error("Too large", 413), "", "", "error: Too large"),
        (
            (422, {"detail": "String should have at most 9 characters"}),
            "",
            "",
            "error: String should have at most 9 char",
        ),
    ],
)
def test_each_answer_is_read_for_what_it_is(server, tmp_path, capsys, answer, start, text, reason):
    """And the other cases go on."""
    server.answers = {start or "Question 1": answer if len(answer) == 2 else (200, *answer)}
    cases = [Case(f"b{i}/x", f"b{i}", "direct", False, 0, user(f"Question {i}", start * (i == 1))) for i in range(4)]
    options = {"batch_size": 2, "max_new_tokens": 5}
    assert generate.run(Endpoint("m", server.url, tries=2), cases, tmp_path / "x.jsonl", **options) == 4
    rows = list(read_jsonl(tmp_path / "x.jsonl"))
    assert rows[1]["completion"] == text
    assert rows[1]["finish_reason"].startswith(reason)
    assert [row["completion"] for row in rows[2:]] == ["2 noitseuQ", "3 noitseuQ"]
    said = f"1 of 4 cases have no answer: {reason}" in capsys.readouterr().err
    assert said == reason.startswith(generate.NOT_TAKEN)
    assert generate.run(Endpoint("m", server.url, tries=2), cases, tmp_path / "x.jsonl", **options) == 0


def test_a_case_without_an_answer_is_unscored_and_says_why(server, tmp_path):
    server.answers = {"all": message(None, "content_filter")}
    table = evaluate.attack(Endpoint("m", server.url), ["direct"], tmp_path, limit={"test": 3}, max_new_tokens=5)
    assert list(table.unscored) == [3, 3]
    assert list(table.asr_at_most_percent) == [100, 100]
    row = next(read_jsonl(tmp_path / "verdicts" / "m" / "direct.jsonl"))
    assert (row["verdict"], row["reason"]) == ("unscored", "no answer (content_filter)")


def test_a_temperature_can_be_left_out(server):
    endpoint = Endpoint("m", server.url, temperature=False)
    endpoint.complete([user("Why?")], max_new_tokens=5)
    assert "temperature" not in server.bodies[-1][1]
    assert endpoint.fingerprint() != Endpoint("m", server.url).fingerprint()


@pytest.mark.slow
def test_ctrl_c_does_not_wait_for_a_server(tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        code = (
            # Whoever starts the tests in the background has SIGINT ignored.
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "from derta import evaluate; from derta.judges.endpoint import Endpoint; print('go', flush=True)\n"
            f"evaluate.attack(Endpoint('m', 'http://127.0.0.1:{silent.getsockname()[1]}/v1', timeout=60), ['direct'],"
            f" {str(tmp_path)!r}, limit=20, max_new_tokens=4, batch_size=8)"
        )
        asking = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        with asking.stdout as output, silent.accept()[0]:
            output.readline()
            start = time.monotonic()
            asking.send_signal(signal.SIGINT)
            asking.wait(50)
        assert time.monotonic() - start < 20


def test_a_slash_at_the_end_of_the_address_asks_nothing_again(server, tmp_path):
    def attack(url, **options):
        before = sum(server.asked.values())
        options = {"limit": 6, "max_new_tokens": 5, "batch_size": 3} | options
        evaluate.attack(Endpoint("m", url), ["direct"], tmp_path, **options)
        return sum(server.asked.values()) - before

    assert [attack(server.url), attack(server.url), attack(server.url + "/")] == [12, 0, 0]
    assert not list(tmp_path.rglob("*.aside"))
    assert attack(server.url.replace("127.0.0.1", "localhost")) == 12, "another server may stand behind another name"
    assert len(list(tmp_path.rglob("*.aside"))) == 2, "and what was paid for is kept"


def test_answers_of_a_server_that_still_fit_are_taken_over(server, tmp_path):
    def attack(limit, tokens=5):
        before = sum(server.asked.values())
        options = {"limit": limit, "max_new_tokens": tokens, "batch_size": 3}
        evaluate.attack(Endpoint("m", server.url), ["direct"], tmp_path, "m", **options)
        return sum(server.asked.values()) - before

    asked = spread(ATTACKS["direct"].requests(False), 6)
    new = set(map(str, spread(ATTACKS["direct"].requests(False), 9))) - set(map(str, asked))
    assert attack(6) == 12
    assert attack(9) == 2 * len(new) < 18
    assert attack(9, tokens=6) == 18


@pytest.fixture(scope="module")
def served(tiny_folder, tmp_path_factory):
    """``transformers serve`` with the tiny model on the loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log"
    command = [Path(sys.executable).with_name("transformers"), "serve", tiny_folder, "--host", "127.0.0.1"]
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("w") as output:
        try:
            process = subprocess.Popen(
                [*map(str, command), "--port", str(port)], stdout=output, stderr=subprocess.STDOUT, env=offline
            )
        except OSError as error:
            pytest.skip(f"transformers serve is not installed here: {error}")
        try:
            for _ in range(240):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                    break
                except OSError:
                    time.sleep(0.25)
                if process.poll() is not None:
                    pytest.skip(f"transformers serve ended: {log.read_text()[-500:]}")
            else:
                pytest.skip(f"transformers serve did not start within a minute: {log.read_text()[-500:]}")
            yield Endpoint(str(tiny_folder), f"http://127.0.0.1:{port}/v1", timeout=60, tries=2)
        finally:
            process.terminate()
            process.wait(20)


@pytest.mark.slow
def test_a_served_model_gives_the_completions_of_the_model_in_process(served, tiny, tmp_path):
    """Greedy, in float32: chats (with and without turns before) and plain texts."""
    for name in ("direct", "completing", "multi_turn", "role_play"):
        cases = ATTACKS[name].cases(spread(ATTACKS[name].requests(False), 6))
        for folder, backend in (("served", served), ("in process", tiny)):
            generate.run(backend, cases, tmp_path / folder / f"{name}.jsonl", batch_size=3, max_new_tokens=12)
        rows = [list(read_jsonl(tmp_path / folder / f"{name}.jsonl")) for folder in ("served", "in process")]
        for field in ("case_id", "completion", "finish_reason", "new_tokens", "prompt_tokens"):
            assert [row[field] for row in rows[0]] == [row[field] for row in rows[1]], (name, field)


@pytest.mark.slow
def test_transformers_serve_continues_no_started_reply_and_says_so(served):
    with pytest.raises(ValueError, match="does not take continue_final_message"):
        served.complete([user("Why?", "Well,")], max_new_tokens=2)

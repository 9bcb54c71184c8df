"""A server of vLLM in the place of weights: the same answers and probabilities as in process, and its start and end."""

import json
import shutil
import stat
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from conftest import make_model
from peft import LoraConfig, get_peft_model

from derta import decode, depth, evaluate, models
from derta.commands import serving
from derta.generate import Prompt, user
from derta.judges.served import Served
from derta.searches import autodan

PROMPTS = [user("How can I paint a fence?", "First, take"), user("Hi"), Prompt((), "Step 1:"), user("Why is it so?")]


def answer(lm, body):
    """What vLLM's completions send back, computed by a model in process."""
    ids, choice = body["prompt"], {"index": 0, "text": "", "finish_reason": "length"}
    if "logprob_token_ids" in body:
        ((_, row),) = depth.forced(lm, [ids], [[0]], 1)
        top = {f"token_id:{token}": row[0, token].item() for token in body["logprob_token_ids"]}
        choice["logprobs"] = {"top_logprobs": [top]}
    else:
        assert set(body["stop_token_ids"]) == {lm.tokenizer.eos_token_id}
        forbidden = [lm.ids(word) for word in body.get("bad_words", [])] + [[int(i)] for i in body["logit_bias"]]
        more = {"min_new_tokens": body["min_tokens"], "forbidden": forbidden}
        (found,) = decode.complete(lm.model, lm.tokenizer, [ids], max_new_tokens=body["max_tokens"], **more)
        usage = {"prompt_tokens": found.prompt_tokens, "completion_tokens": found.new_tokens}
        choice |= {"text": found.text, "finish_reason": found.finish_reason}
        return {"id": "x", "object": "x", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return {"id": "x", "object": "x", "created": 0, "model": "m", "choices": [choice]}


@pytest.fixture
def on_server(tiny):
    """The tiny model without weights, and a server that answers in their place; `refuses` are unknown parameters."""
    lock, refuses = threading.Lock(), set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                unknown = refuses & body.keys()
                said = {"error": {"message": f"no {unknown}"}} if unknown else answer(tiny, body)
            content = json.dumps(said).encode()
            self.send_response(400 if unknown else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    lm = models.load_tokenizer(tiny.name)
    lm.engine = Served("m", f"http://127.0.0.1:{server.server_port}/v1")
    yield lm, refuses
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("decoding", [{}, {"min_new_tokens": 8}, {"forbidden": ["the", "a"]}], ids=str)
def test_answers_are_those_of_the_model_in_process(tiny, on_server, decoding):
    expected = [tiny.complete([prompt], max_new_tokens=8, **decoding)[0] for prompt in PROMPTS]
    assert on_server[0].complete(PROMPTS, max_new_tokens=8, **decoding) == expected


def test_probabilities_are_those_of_the_model_in_process(tiny, on_server):
    lm, _ = on_server
    assert depth.next_refusals(lm, PROMPTS, batch_size=2) == pytest.approx(
        depth.next_refusals(tiny, PROMPTS, batch_size=2), rel=1e-4
    )
    pairs = [(tiny.chat("How can I paint a fence?"), "First, take a brush and some paint"), (tiny.chat("Hi"), "Well")]
    found, expected = (depth.refusal_probabilities(of, pairs, positions=5, batch_size=2) for of in (lm, tiny))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    found, expected = (autodan.fitness(of, PROMPTS, "Sure, here is how", 2) for of in (lm, tiny))
    assert found == pytest.approx(expected, rel=1e-4)


def test_an_attack_is_scored_and_judged_as_in_process_and_its_answers_are_kept(tiny, on_server, tmp_path):
    lm, _ = on_server
    asked = {"limit": {"validation": 3}, "max_new_tokens": 8}
    tables = [
        evaluate.attack(of, ["direct", "prefill"], tmp_path / of.fingerprint(), "m", **asked) for of in (lm, tiny)
    ]
    assert tables[0].to_dict() == tables[1].to_dict()
    folder = tmp_path / lm.fingerprint()
    assert len(list((folder / "scores" / "m").glob("*.jsonl"))) == 4
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.jsonl") if "verdicts" not in path.parts}
    evaluate.attack(lm, ["direct", "prefill"], folder, "m", **asked)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_no_key_goes_to_a_server_of_our_own(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    assert Served("m", "http://127.0.0.1:9/v1").client.api_key == "none"


def test_what_a_server_cannot_do_is_said(on_server):
    lm, refuses = on_server
    with pytest.raises(ValueError, match="a guide needs the model in process"):
        lm.complete(PROMPTS, max_new_tokens=4, guide="smollm2-135m")
    refuses.add("logprob_token_ids")
    with pytest.raises(ConnectionError, match=r"no .'logprob_token_ids'"):
        depth.next_refusals(lm, PROMPTS, batch_size=2)


# A program like vLLM's: a server that is ready after a while, with a worker, or one that ends at once.
PROGRAM = """
import http.server, subprocess, sys
if "--broken" in sys.argv:
    sys.exit("no such device")
port = int(sys.argv[sys.argv.index("--port") + 1])
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("worker", worker.pid, flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def program(tmp_path) -> Path:
    path = tmp_path / "a place" / "vllm"
    path.parent.mkdir()
    path.write_text(f"#!{sys.executable}\n{PROGRAM}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_a_server_and_its_workers_end_with_the_block_whatever_happens_in_it(program, tiny_folder, tmp_path):
    log = tmp_path / "logs" / "server.txt"
    with pytest.raises(KeyError, match="x"), serving.loaded(str(tiny_folder), f"'{program}' serve", log) as lm:  # noqa: PT012
        assert lm.model is None
        worker = psutil.Process(int(log.read_text().split()[1]))
        assert worker.is_running()
        raise KeyError("x")
    _, alive = psutil.wait_procs([worker], timeout=10)
    assert not alive


def test_a_server_ends_with_the_process_that_started_it(program, tiny_folder, tmp_path):
    log = tmp_path / "server.txt"
    code = (
        "import sys, time; from pathlib import Path; from derta.commands import serving\n"
        "with serving.loaded(sys.argv[1], sys.argv[2], Path(sys.argv[3])): print('ready', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tiny_folder), f"'{program}' serve", str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        worker = psutil.Process(int(log.read_text().split()[1]))
        process.kill()
    _, alive = psutil.wait_procs([worker], timeout=10)
    assert not alive


def test_a_server_that_ends_and_a_program_that_is_missing_are_said_in_one_line(program, tiny_folder, tmp_path):
    log = tmp_path / "server.txt"
    with pytest.raises(RuntimeError, match=r"ended before it was ready \(.*server.txt\): no such device"):  # noqa: SIM117
        with serving.loaded(str(tiny_folder), f"'{program}' serve --broken", log):
            pass
    with pytest.raises(FileNotFoundError, match="vllm-of-nobody was not found: vLLM needs an environment of its own"):  # noqa: SIM117
        with serving.loaded(str(tiny_folder), "vllm-of-nobody serve", log):
            pass


def test_without_a_server_the_weights_are_in_process(tiny_folder, tmp_path):
    with serving.loaded(str(tiny_folder), "", tmp_path / "server.txt") as lm:
        assert lm.model is not None
        assert lm.engine is None
    assert not list(tmp_path.iterdir())


def test_an_adapter_is_served_with_its_base_and_room_for_its_rank(tiny_folder, tmp_path):
    adapter = str(tmp_path / "adapter")
    lm = models.load(str(tiny_folder), dtype=torch.float32)
    get_peft_model(lm.model, LoraConfig(r=12, target_modules="all-linear")).save_pretrained(adapter)
    found = serving.command("vllm serve --tensor-parallel-size 8", adapter, 8000)
    assert found[:5] == ["vllm", "serve", str(tiny_folder), "--tensor-parallel-size", "8"]
    assert found[-5:] == ["--enable-lora", "--max-lora-rank", "16", "--lora-modules", f"{adapter}={adapter}"]


def whole(found):
    """The answers without a character at the end of which there is only a part: vLLM withholds it."""
    return [replace(one, text=one.text.rstrip("\ufffd")) for one in found]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_vllm_itself_answers_as_the_model_in_process(tmp_path, kind):
    if not (found := shutil.which("vllm")):
        pytest.skip("vLLM is not installed here; put its environment on the path")
    folder = str(make_model(tmp_path / "tiny", head_dim=64))  # a size that its attention knows on a CPU
    if kind == "adapter":
        lm, folder = models.load(folder, dtype=torch.float32), str(tmp_path / "adapter")
        lora = LoraConfig(r=12, target_modules="all-linear", init_lora_weights=False)
        torch.manual_seed(0)
        get_peft_model(lm.model, lora).save_pretrained(folder)
        lm.tokenizer.save_pretrained(folder)
    tiny = models.load(folder, dtype=torch.float32)
    server = f"'{found}' serve --enforce-eager --dtype float32 --max-model-len 256 --max-num-seqs 4"
    with serving.loaded(folder, server, tmp_path / "server.txt") as lm:
        expected = [tiny.complete([prompt], max_new_tokens=8)[0] for prompt in PROMPTS]
        assert whole(lm.complete(PROMPTS, max_new_tokens=8)) == whole(expected)
        found = depth.next_refusals(lm, PROMPTS, batch_size=2)
        assert found == pytest.approx(depth.next_refusals(tiny, PROMPTS, batch_size=2), rel=1e-2)
        found = autodan.fitness(lm, PROMPTS, "Sure, here is how", 2)
        assert found == pytest.approx(autodan.fitness(tiny, PROMPTS, "Sure, here is how", 2), rel=1e-2)
        more = {"max_new_tokens": 8, "forbidden": [tiny.tokenizer.decode(tiny.ids(expected[1].text)[0]).strip()]}
        found = lm.complete(PROMPTS[1:2], **more)
        assert whole(found) == whole(tiny.complete(PROMPTS[1:2], **more)) != whole(expected[1:2])

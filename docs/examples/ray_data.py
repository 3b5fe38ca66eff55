"""Ray Data with dgguf: over actors that hold a session each, or over servers that run already.

pip install 'dgguf[ray]' openai                   the latter for servers alone
python ray_data.py                                two actors of one thread on this machine
python ray_data.py http://10.0.0.1:8080/v1 …      `dgguf serve`, one or more

`dgguf batch --ray` does more: it goes on where it was stopped, and keeps rows that begin alike together.
"""

import os
import sys

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report its use to its makers

import ray

import dgguf

PROMPTS = ["Tell me a story.", "Sort: 7 3 9 1 5", "Reverse: fox", "Sort: 4 2 8"]


class Sessions:
    """An actor that holds a model; all those of one machine share the mapped file."""

    def __init__(self) -> None:
        self.session = dgguf.load("demo", threads=1)

    def __call__(self, row: dict) -> dict:
        answer = self.session.generate(row["prompt"], max_tokens=128, seed=int(row["seed"]))
        return row | {"text": answer.text}


class Servers:
    """An actor that asks servers in turn."""

    def __init__(self, urls: list[str]) -> None:
        from openai import OpenAI

        self.clients = [OpenAI(base_url=url, api_key="none", timeout=3600) for url in urls]

    def __call__(self, row: dict) -> dict:
        client = self.clients[int(row["seed"]) % len(self.clients)]
        messages = [{"role": "user", "content": row["prompt"]}]
        answer = client.chat.completions.create(
            model="", messages=messages, max_tokens=128, seed=int(row["seed"])
        )
        return row | {"text": answer.choices[0].message.content}


def main(urls: list[str]) -> None:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = ray.data.from_items([{"prompt": prompt, "seed": seed} for seed, prompt in enumerate(PROMPTS)])
    two = ray.data.ActorPoolStrategy(size=2)
    if urls:
        answered = rows.map(Servers, fn_constructor_args=[urls], compute=two, num_cpus=0.1)
    else:
        answered = rows.map(Sessions, compute=two, num_cpus=1)
    for row in sorted(answered.take_all(), key=lambda row: row["seed"]):
        print(f"{row['prompt']} → {row['text']}")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Run vision-language models of base_models with vLLM, offline; vLLM forms the batches.

vLLM needs a GPU and is an optional extra: `pip install -e .[vllm]` in a separate environment, because it
conflicts with the fastapi version that Prefect requires. A model needs a chat template, which Florence-2 and
BLIP-2 do not have.

Tests cover only our side: what is passed to `LLM.chat` and how its outputs are used, against a fake with the
interface of vLLM 0.30. No test runs vLLM itself. Each caption is sampled with its own seed, but vLLM does not
guarantee bitwise equal results in every batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from components.errors import ConfigurationError
from components.recaption.captioners.prompted import Order, Reply, messages
from components.recaption.captioners.vision_language import FOLDER, model_folder
from components.settings.recaption import VllmCaptioner
from components.storage.manifest import folder_key

ORDERS_AT_ONCE = 512  # their images are held in memory as text
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


class VllmWriter:
    """Run a model by `vllm.LLM.chat`.

    Args:
        section: Section of the captioner, from params.
        base_models: Folder of the artifact of base_models.

    Raises:
        ConfigurationError: vLLM is not installed, or base_models has no such model.
    """

    made_by: str | None = "vllm"

    def __init__(self, section: VllmCaptioner, base_models: Path) -> None:
        try:
            import vllm
        except ImportError as error:
            raise ConfigurationError(
                f"recaption.captioners {section.name} is of kind vllm, and vLLM cannot be imported "
                f"({error}); expected it; run `pip install -e .[vllm]` in a separate environment on a "
                "GPU machine, or use kind vision_language"
            ) from None
        self._vllm, self._section = vllm, section
        self._folder = model_folder(section.name, section.model, base_models)
        self._weights_key = folder_key(base_models, f"{FOLDER}/{section.model}/")

    def identity(self) -> dict[str, Any]:
        """See `Writer`."""
        return {"weights": self._weights_key}

    def replies(self, orders: Sequence[Order]) -> Iterator[tuple[int, Reply]]:
        """See `Writer`."""
        for first in range(0, len(orders), ORDERS_AT_ONCE):
            batch = orders[first : first + ORDERS_AT_ONCE]
            sampling = [
                self._vllm.SamplingParams(
                    temperature=self._section.temperature, max_tokens=order.max_new_tokens, seed=order.seed
                )
                for order in batch
            ]
            outputs = self._llm.chat([messages(order) for order in batch], sampling, use_tqdm=False)
            for index, output in enumerate(outputs, first):
                completion = output.outputs[0]
                yield (
                    index,
                    Reply(completion.text, "truncated" if completion.finish_reason == "length" else None),
                )

    @cached_property
    def _llm(self) -> Any:  # noqa: ANN401 - of an extra
        return self._vllm.LLM(
            model=str(self._folder),
            dtype=DTYPES[self._section.precision],
            max_model_len=self._section.context_tokens,
            limit_mm_per_prompt={"image": 1},
            trust_remote_code=False,
        )

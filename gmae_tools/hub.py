"""Loading, saving and sharing of models by the methods of Hugging Face's libraries, in the folders of `checkpoints`."""

from __future__ import annotations

import hashlib
import os
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelCardData, PyTorchModelHubMixin

from gmae_tools.checkpoint_names import HUB_PREFIX
from gmae_tools.errors import GmaeToolsError

if TYPE_CHECKING:
    from typing_extensions import Self

_PLACEHOLDER = "ORG/NAME"


class HubModel(
    PyTorchModelHubMixin,
    library_name="gmae-tools",
    pipeline_tag="image-feature-extraction",
    tags=["masked-autoencoder", "self-supervised-learning", "vit"],
):
    """`from_pretrained`, `save_pretrained` and `push_to_hub` for a model with a `config`.

    A folder holds `config.json`, `model.safetensors` and `README.md`, the model card, which is written where there is
    none. Whatever `checkpoints` refuses is refused here.

    Attributes:
        provenance: how the weights came to be, as the checkpoint that they are from tells; it is saved with them.
    """

    provenance: dict[str, Any] | None = None
    _digest = ""  # of the file of weights that was saved last

    @classmethod
    def from_pretrained(  # type: ignore[override]  # nothing else may be given, and a subclass is returned
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        map_location: str = "cpu",
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """A model in evaluation mode.

        Args:
            pretrained_model_name_or_path: anything that `checkpoints.load_any` takes, or a repository, `ORG/NAME`; what
                lies on this machine comes first.
            revision: of a repository: a branch, a tag or a commit.
            map_location: the device for it.
            force_download, token, cache_dir, local_files_only: for a repository, as in `huggingface_hub`.

        Raises:
            GmaeToolsError: there is no such checkpoint, it cannot be fetched, it is damaged, or it is of another model.

        Example:
            >>> GMAE.from_pretrained("gmae-tiny").config.k
            1024
        """
        from gmae_tools import checkpoints  # which makes models, and so imports this module

        name = os.fspath(pretrained_model_name_or_path)
        if checkpoints.is_local(name):
            model = checkpoints.load_any(name)
        else:
            address = name.removeprefix(HUB_PREFIX) + (f"@{revision}" if revision else "")
            options = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
            model = checkpoints.load_folder(checkpoints.fetch(address, force_download=force_download, **options))
        if not isinstance(model, cls):
            raise GmaeToolsError(f"{name}: holds weights of {type(model).__name__}, not of {cls.__name__}")
        return model.to(map_location)

    def _save_pretrained(self, save_directory: Path) -> None:
        from gmae_tools import checkpoints

        checkpoints.save(self, save_directory, training=self.provenance)  # type: ignore[arg-type]
        self._digest = hashlib.sha256((save_directory / checkpoints.WEIGHTS_FILE).read_bytes()).hexdigest()

    def push_to_hub(self, repo_id: str, *, model_card_kwargs: dict[str, Any] | None = None, **options: Any) -> str:
        """Upload the model as `ORG/NAME`, with a model card; returns the address of the commit.

        Args:
            model_card_kwargs: for `generate_model_card`.
            options: `private`, `token`, `branch`, `commit_message` and others, as in `huggingface_hub`.

        Raises:
            GmaeToolsError: the hub refuses.
        """
        from gmae_tools import checkpoints

        card = {"repository": repo_id, **(model_card_kwargs or {})}
        with checkpoints.hub_errors(f"{HUB_PREFIX}{repo_id}: the hub refused"):
            return super().push_to_hub(repo_id, model_card_kwargs=card, **options)

    def generate_model_card(self, *args: Any, repository: str = _PLACEHOLDER, **data: Any) -> ModelCard:
        """The model card, for `README.md`.

        Args:
            repository: where it will be, `ORG/NAME`.
            data: for the YAML at its head, as `huggingface_hub.ModelCardData` takes it, such as `license="mit"` and
                `datasets=["ILSVRC/imagenet-1k"]`. Nobody knows the licence but you: unless given it is `unknown`.
        """
        trained = self.provenance or {}
        known = {"license": "unknown", **({"metrics": ["psnr"]} if "psnr" in trained else {})}
        head = ModelCardData(**{**self._hub_mixin_info.model_card_data.to_dict(), **known, **data})
        kind = type(self)
        rows = "\n".join(f"| {name} | {value} |" for name, value in self.facts().items())
        return ModelCard(f"""---
{head.to_yaml()}
---

# {repository.split("/")[-1] if repository != _PLACEHOLDER else kind.__name__}

{(kind.__doc__ or "").splitlines()[0]}

```python
from {kind.__module__} import {kind.__name__}  # pip install gmae-tools

model = {kind.__name__}.from_pretrained("{repository}")
```

| | |
|---|---|
{rows}
""")

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in self.facts().items()
        )
        return f"<table><caption>{type(self).__name__}</caption>{rows}</table>"

    def facts(self) -> dict[str, object]:
        """What the model is and how it was trained, by name, for model cards and notebooks."""
        config: Any = self.config  # type: ignore[attr-defined]
        parameters = sum(parameter.numel() for parameter in self.parameters())  # type: ignore[attr-defined]
        trained = self.provenance or {}
        facts: dict[str, object] = {
            "input": f"{config.image_size} x {config.image_size} px, patches of {config.patch_size} px",
            "encoder": f"{config.depth} blocks x {config.width}",
            "decoder": f"{config.decoder_depth} blocks x {config.decoder_width}",
            "parameters": f"{parameters:,}",
        }
        if hasattr(config, "queries"):
            facts["output"] = f"{config.k:,} Gaussians: {config.queries} queries x {config.gaussians_per_query}"
            facts["camera"] = f"{config.camera.kind}; largest scale {config.max_scale:g}"
        if isinstance(samples := trained.get("samples"), int):
            facts["trained on"] = f"{samples:,} samples"
        if isinstance(psnr := trained.get("psnr"), float):
            facts["PSNR of held-out photographs, nothing masked"] = f"{psnr:.2f} dB"
        if self._digest:
            facts["SHA-256 of model.safetensors"] = f"`{self._digest}`"
        return facts

"""SigLIP's vision tower with a projection, with its own model type, in Hugging Face layout.

SigLIP (Zhai et al. 2023) and SigLIP 2 (Tschannen et al. 2025) of a fixed resolution pool by an attention head
and have no projection: their width is that of the shared space. LLM2CLIP may need another width
(docs/method.md, 3).
"""

from typing import Any

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, SiglipVisionConfig, SiglipVisionModel
from transformers.models.clip.modeling_clip import CLIPVisionModelOutput
from transformers.models.siglip.modeling_siglip import SiglipPreTrainedModel


@strict
class ProjectedSiglipVisionConfig(SiglipVisionConfig):
    """SigLIP's vision config with the width of the projection."""

    model_type = "projected_siglip_vision_model"

    projection_dim: int = 512


class SiglipVisionModelWithProjection(SiglipPreTrainedModel):
    """The vision tower, then a linear projection without bias."""

    config: ProjectedSiglipVisionConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)

    def __init__(self, config: ProjectedSiglipVisionConfig) -> None:
        super().__init__(config)
        self.vision_model = SiglipVisionModel._from_config(config)
        self.visual_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the module that reads pixels."""
        embedding: nn.Module = self.vision_model.embeddings.patch_embedding
        return embedding

    def forward(self, pixel_values: Tensor, **options: Any) -> CLIPVisionModelOutput:  # noqa: ANN401
        """Embed normalised pixels (B, 3, H, W); `image_embeds` are (B, D), un-normalised."""
        output = self.vision_model(pixel_values=pixel_values, **options)
        return CLIPVisionModelOutput(
            image_embeds=self.visual_projection(output.pooler_output),
            last_hidden_state=output.last_hidden_state,
        )


AutoConfig.register(ProjectedSiglipVisionConfig.model_type, ProjectedSiglipVisionConfig, exist_ok=True)
AutoModel.register(ProjectedSiglipVisionConfig, SiglipVisionModelWithProjection, exist_ok=True)

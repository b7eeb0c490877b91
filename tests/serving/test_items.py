"""Items that the grids tell are those of `model.prepare`, for sound within a video too. Needs no vLLM."""

from types import SimpleNamespace

import avflow
from avflow import Sample, synthetic
from avflow_vllm.items import Items


def test_interleaved_sound(tmp_path):
    model = avflow.load("tiny-omni")
    config = model.hf.config
    path = synthetic.write_items(synthetic.make_items("heldout", 2), tmp_path)
    sample = next(iter(Sample.read_jsonl(path if path.is_file() else path / "samples.jsonl")))
    prompt = model.prepare(sample)
    ids = {"video": config.video_token_index, "audio": config.audio_token_index, "image": config.image_token_index}
    segment = int(config.position_id_per_seconds * config.seconds_per_chunk)
    grid = SimpleNamespace(data=prompt.model_inputs["video_grid_thw"][0])
    at = list(prompt.groups).index("video")
    feature = SimpleNamespace(
        modality="video", mm_position=SimpleNamespace(offset=at), identifier="x", data={"video_grid_thw": grid}
    )
    found = Items(ids, config.vision_config.spatial_merge_size, segment).of(
        prompt.input_ids.flatten().tolist(), [feature]
    )
    media = [i for i, group in enumerate(prompt.groups) if group in ids]
    assert len({found[i] for i in media}) > 2
    assert [found[i] for i in media] == [prompt.items[i] for i in media]

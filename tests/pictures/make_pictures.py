#!/usr/bin/env python
"""Pictures, and what transformers hands the `vit` fixture of them:  make_pictures.py, in its own folder

For each `<preset>.json` (a preprocessor_config.json) and picture, `expected.safetensors` holds `<preset>/<picture>`, [3, 32, 32]. Pictures are
opened as transformers' pipelines do: upright, without transparency. Needs Pillow, numpy, safetensors, transformers."""
import json, pathlib, numpy, PIL.Image
from safetensors.numpy import save_file
from transformers.image_utils import load_image
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

here = pathlib.Path(__file__).parent
random = numpy.random.default_rng(6)


def scene(width, height, channels):
    """Smooth colours with an edge and a little noise."""
    y, x = numpy.mgrid[0:height, 0:width] / [[[height]], [[width]]]
    planes = [x, y, (x + y) / 2, 1 - x * y][:channels]
    image = numpy.stack(planes, -1) * 200 + 40 * (x > y)[..., None] + random.integers(0, 15, (height, width, channels))
    return numpy.clip(image, 0, 255).astype(numpy.uint8)


exif = PIL.Image.Exif()
exif[0x0112] = 6  # The camera was held on its side.
PIL.Image.fromarray(scene(50, 20, 3)).save(here / "wide.png")
PIL.Image.fromarray(scene(47, 33, 4)).save(here / "transparent.png")
PIL.Image.fromarray(scene(32, 32, 1)[..., 0]).save(here / "gray.png")
PIL.Image.fromarray(scene(9, 70, 3)).save(here / "tall.webp", lossless=True)
PIL.Image.fromarray(scene(20, 20, 3)).quantize(32).save(here / "few.gif")
PIL.Image.fromarray(scene(60, 44, 3)).save(here / "turned.jpg", quality=95, subsampling=0, exif=exif)

expected = {}
for preset in sorted(here.glob("*.json")):
    processor = ViTImageProcessorPil(**json.loads(preset.read_text()))
    for picture in sorted(here.glob("*.*")):
        # Formats matter to one preset, filters to two pictures.
        formats = {".png", ".webp", ".gif", ".jpg"} if preset.stem == "bilinear" else {".webp", ".jpg"}
        if picture.suffix in formats:
            pixels = processor(load_image(str(picture)), return_tensors="np")["pixel_values"][0]
            expected[f"{preset.stem}/{picture.name}"] = pixels.astype(numpy.float32)
save_file(expected, here / "expected.safetensors")

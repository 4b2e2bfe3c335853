"""Golden picture files with the metadata of other programs.

Run: python tests/golden/make_metadata.py (pillow, piexif). A1111's files are written
with the two libraries that A1111 uses, ComfyUI's with Pillow as ComfyUI does, and
stable-diffusion.cpp's byte by byte, as its encoders lay them out. `expected.json` is
what each says, put down here by hand.
"""

import io
import json
import struct
import zlib
from xml.sax.saxutils import escape

import piexif
import piexif.helper
from PIL import Image, PngImagePlugin
from provenance import FOLDER, record

OUT = FOLDER / "metadata"
BLANK = Image.new("RGB", (16, 16), (200, 120, 40))


# A1111

NEW = {
    "prompt": "masterpiece, (a red house:1.2), café 🏠\nsecond line <lora:add:0.8>",
    "negative_prompt": "blurry, text: none",
    "settings": {
        "Steps": "28",
        "Sampler": "DPM++ 2M",
        "Schedule type": "Karras",
        "CFG scale": "6.5",
        "Seed": "965400086",
        "Size": "512x768",
        "Model hash": "6ce0161689",
        "Model": "v1-5-pruned-emaonly",
        "Denoising strength": "0.55",
        "Clip skip": "2",
        "ENSD": "31337",
        "RNG": "CPU",
        "Hires upscale": "1.75",
        "Hires steps": "12",
        "Hires upscaler": "4x-UltraSharp",
        "Lora hashes": "add: 7c6bad76eb54, more: 0123456789ab",
        "Hires prompt": 'a "big" house: red\\blue,\nnew line',
        "Version": "v1.10.1",
    },
}
OLD = {
    "prompt": "a lighthouse",
    "negative_prompt": "",
    "settings": {
        "Steps": "20",
        "Sampler": "DPM++ 2M Karras",
        "CFG scale": "7",
        "Seed": "1",
        "Size": "512x512",
        "Model hash": "45dee52b",
    },
}
TEMPLATE = {
    "prompt": "a blue ball",
    "negative_prompt": "rain",
    "settings": {
        "Steps": "20",
        "Sampler": "Euler a",
        "Schedule type": "Automatic",
        "CFG scale": "7.0",
        "Seed": "3",
        "Size": "512x512",
        "Version": "v1.9.4",
        "Template": "a {red|blue} ball, Steps: 1, Seed: 2, Size: 3",
        "Negative Template": "{rain|snow}",
    },
}


def a1111_text(case: dict) -> str:
    """The lines as A1111 joins them; a value with , : or a line break is JSON."""
    pairs, below = [], []
    for key, value in case["settings"].items():
        if key.endswith("Template"):
            below.append(f"{key}: {value}")
        elif any(c in value for c in ",:\n"):
            pairs.append(f"{key}: {json.dumps(value, ensure_ascii=False)}")
        else:
            pairs.append(f"{key}: {value}")
    lines = [case["prompt"]]
    if case["negative_prompt"]:
        lines.append(f"Negative prompt: {case['negative_prompt']}")
    return "\n".join([*lines, ", ".join(pairs), *below])


def a1111_png(text: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", text)  # Pillow takes iTXt for more than Latin-1
    return encoded("PNG", pnginfo=info)


def a1111_exif(text: str, format: str) -> bytes:
    comment = piexif.helper.UserComment.dump(text, encoding="unicode")
    exif = piexif.dump({"Exif": {piexif.ExifIFD.UserComment: comment}})
    out = io.BytesIO()
    piexif.insert(exif, encoded(format), out)
    return out.getvalue()


def encoded(format: str, **options) -> bytes:
    out = io.BytesIO()
    BLANK.save(out, format=format, **options)
    return out.getvalue()


# stable-diffusion.cpp

SDCPP = {
    "prompt": "a fox & <lora:x:1>, façade 狐, SDCPP: none",
    "negative_prompt": "blurry",
    "settings": {
        "Steps": "20",
        "CFG scale": "7.300000",
        "Guidance": "3.500000",
        "Eta": "inf",
        "Seed": "43",
        "Size": "512x640",
        "Model": "sd15.safetensors",
        "RNG": "cuda",
        "Sampler": "euler_a",
        "Schedule type": "discrete",
        "Clip skip": "2",
        "Version": "stable-diffusion.cpp",
    },
}
SDCPP_JSON = {
    "clip_skip": 2,
    "control_strength": 0.8999999761581421,
    "generator": {
        "commit": "97d2990",
        "name": "stable-diffusion.cpp",
        "version": "master-700",
    },
    "height": 640,
    "mode": "img_gen",
    "models": {"model": "sd15.safetensors"},
    "prompt": {"negative": SDCPP["negative_prompt"], "positive": SDCPP["prompt"]},
    "rng": "cuda",
    "sampler_rng": None,
    "sampling": {
        "custom_sigmas": [],
        "eta": None,
        "extra_sample_args": "",
        "flow_shift": None,
        "guidance": {
            "distilled_guidance": 3.5,
            "img_cfg": 7.300000190734863,
            "slg": {"end": 0.2, "layers": [7, 8, 9], "scale": 0.0, "start": 0.01},
            "txt_cfg": 7.300000190734863,
        },
        "method": "euler_a",
        "scheduler": "discrete",
        "shifted_timestep": 0,
        "steps": 20,
    },
    "schema": "sdcpp.image.params/v1",
    "seed": 43,
    "strength": 0.75,
    "width": 512,
}


def sdcpp_text() -> str:
    values = dict(SDCPP["settings"])
    schedule = values.pop("Schedule type")
    values["Sampler"] += f" {schedule}"
    line = ", ".join(f"{key}: {value}" for key, value in values.items())
    told = json.dumps(SDCPP_JSON, ensure_ascii=False, separators=(",", ":"))
    return (
        f"{SDCPP['prompt']}\nNegative prompt: {SDCPP['negative_prompt']}\n"
        f"{line}, SDCPP: {told}"
    )


def sdcpp_png(text: str) -> bytes:
    """One tEXt chunk after IHDR, UTF-8 whatever the standard says."""
    plain = encoded("PNG")
    data = b"tEXtparameters\0" + text.encode()
    chunk = struct.pack(">I", len(data) - 4) + data
    chunk += struct.pack(">I", zlib.crc32(data))
    return plain[:33] + chunk + plain[33:]


def sdcpp_jpeg(text: str) -> bytes:
    plain = encoded("JPEG")
    data = b"parameters\0" + text.encode()
    return plain[:2] + b"\xff\xfe" + struct.pack(">H", len(data) + 2) + data + plain[2:]


def sdcpp_webp(text: str) -> bytes:
    packet = (
        '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        'xmlns:sdcpp="https://github.com/leejet/stable-diffusion.cpp/ns/1.0/">'
        f"<sdcpp:parameters>{escape(text)}</sdcpp:parameters>"
        '</rdf:Description></rdf:RDF></x:xmpmeta>\n<?xpacket end="w"?>'
    ).encode()
    picture = encoded("WEBP")[12:]
    # VP8X: flags (4 is XMP), three bytes each of width - 1 and height - 1.
    extended = struct.pack("<4sIB3x", b"VP8X", 10, 4) + bytes([15, 0, 0] * 2)
    xmp = b"XMP " + struct.pack("<I", len(packet)) + packet + b"\0" * (len(packet) % 2)
    body = b"WEBP" + extended + picture + xmp
    return b"RIFF" + struct.pack("<I", len(body)) + body


# ComfyUI

COMFYUI = {
    "prompt": "beautiful scenery, galaxy bottle",
    "negative_prompt": "text, watermark",
    "settings": {
        "Steps": "20",
        "Sampler": "dpmpp_2m",
        "Schedule type": "karras",
        "CFG scale": "8",
        "Seed": "156680208700286",
        "Size": "512x768",
        "Model": "v1-5-pruned-emaonly.safetensors",
        "Clip skip": "2",
        "RNG": "CPU",
    },
}
GRAPH = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "cfg": 8,
            "denoise": 1,
            "latent_image": ["5", 0],
            "model": ["10", 0],
            "negative": ["7", 0],
            "positive": ["6", 0],
            "sampler_name": "dpmpp_2m",
            "scheduler": "karras",
            "seed": 156680208700286,
            "steps": 20,
        },
    },
    "4": {
        "class_type": "CheckpointLoaderSimple",
        "inputs": {"ckpt_name": "v1-5-pruned-emaonly.safetensors"},
    },
    "5": {
        "class_type": "EmptyLatentImage",
        "inputs": {"batch_size": 1, "height": 768, "width": 512},
    },
    "6": {
        "class_type": "CLIPTextEncode",
        "inputs": {"clip": ["11", 0], "text": ["12", 0]},
    },
    "7": {
        "class_type": "CLIPTextEncode",
        "inputs": {"clip": ["11", 0], "text": "text, watermark"},
    },
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    "9": {
        "class_type": "SaveImage",
        "inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]},
        "is_changed": [float("nan")],  # as ComfyUI does write
    },
    "10": {
        "class_type": "LoraLoader",
        "inputs": {
            "clip": ["4", 1],
            "lora_name": "add.safetensors",
            "model": ["4", 0],
            "strength_clip": 1,
            "strength_model": 1,
        },
    },
    "11": {
        "class_type": "CLIPSetLastLayer",
        "inputs": {"clip": ["10", 1], "stop_at_clip_layer": -2},
    },
    "12": {
        "class_type": "PrimitiveString",
        "inputs": {"value": "beautiful scenery, galaxy bottle"},
    },
}
_WIDGETS = {
    "KSampler": lambda i: [
        *(i["seed"], "randomize", i["steps"], i["cfg"]),
        *(i["sampler_name"], i["scheduler"], i["denoise"]),
    ],
    "CheckpointLoaderSimple": lambda i: [i["ckpt_name"]],
    "EmptyLatentImage": lambda i: [i["width"], i["height"], i["batch_size"]],
    "CLIPTextEncode": lambda i: [i["text"] if isinstance(i["text"], str) else ""],
    "CLIPSetLastLayer": lambda i: [i["stop_at_clip_layer"]],
    "PrimitiveString": lambda i: [i["value"]],
}


def workflow() -> dict:
    """The same graph as ComfyUI's editor saves it: links by number, values by place."""
    nodes, links = [], []
    for name, node in GRAPH.items():
        inputs = []
        for place, (key, value) in enumerate(node["inputs"].items()):
            if isinstance(value, list):
                row = [len(links) + 1, int(value[0]), value[1], int(name), place, "*"]
                links.append(row)
                inputs.append({"name": key, "type": "*", "link": row[0]})
        values = _WIDGETS.get(node["class_type"], lambda _: [])(node["inputs"])
        nodes.append(
            {
                "id": int(name),
                "type": node["class_type"],
                "inputs": inputs,
                "widgets_values": values,
            }
        )
    return {"last_node_id": 12, "nodes": nodes, "links": links, "version": 0.4}


def comfyui_png(texts: dict[str, dict]) -> bytes:
    info = PngImagePlugin.PngInfo()
    for key, value in texts.items():
        info.add_text(key, json.dumps(value))
    return encoded("PNG", pnginfo=info)


def comfyui_webp() -> bytes:
    """As ComfyUI's SaveAnimatedWEBP: the camera's model and maker."""
    exif = BLANK.getexif()
    exif[0x0110] = "prompt:" + json.dumps(GRAPH)
    exif[0x010F] = "workflow:" + json.dumps(workflow())
    return encoded("WEBP", exif=exif)


def main():
    a1111, sdcpp = a1111_text(NEW), sdcpp_text()
    files = {
        "a1111.png": (a1111_png(a1111), NEW),
        "a1111.jpg": (a1111_exif(a1111, "JPEG"), NEW),
        "a1111.webp": (a1111_exif(a1111, "WEBP"), NEW),
        "a1111_old.png": (a1111_png(a1111_text(OLD)), OLD),
        "a1111_template.png": (a1111_png(a1111_text(TEMPLATE)), TEMPLATE),
        "sdcpp.png": (sdcpp_png(sdcpp), SDCPP),
        "sdcpp.jpg": (sdcpp_jpeg(sdcpp), SDCPP),
        "sdcpp.webp": (sdcpp_webp(sdcpp), SDCPP),
        "comfyui.png": (
            comfyui_png({"prompt": GRAPH, "workflow": workflow()}),
            COMFYUI,
        ),
        "comfyui_workflow.png": (comfyui_png({"workflow": workflow()}), COMFYUI),
        "comfyui.webp": (comfyui_webp(), COMFYUI),
    }
    OUT.mkdir(exist_ok=True)
    programs = {"a1111": "A1111", "sdcpp": "stable-diffusion.cpp", "comfyui": "ComfyUI"}
    expected = {}
    for name, (data, case) in files.items():
        (OUT / name).write_bytes(data)
        program = programs[name.split(".")[0].split("_")[0]]
        expected[name] = {"program": program, **case}
    text = json.dumps(expected, indent=1, ensure_ascii=False)
    (OUT / "expected.json").write_text(text + "\n", encoding="utf-8")
    record(
        "make_metadata.py",
        ("pillow", "piexif"),
        "`metadata/`: pictures of 16x16 with the settings of other programs, and in\n"
        "`expected.json` what each says. A1111's are written as its\n"
        "`modules/images.py` writes, ComfyUI's as its `SaveImage` and\n"
        "`SaveAnimatedWEBP`; stable-diffusion.cpp's are laid out by hand as its\n"
        "`media_io.cpp` does, as its Python binding writes no metadata.",
    )


if __name__ == "__main__":
    main()

"""Made-up benchmarks of a few questions, in the formats that the real ones have on disk."""

import base64
import io
import json

from PIL import Image

COLOURS = ("red", "green", "blue", "white")


def picture(number, size=32):
    """Return a PNG that no other number gives."""
    file = io.BytesIO()
    Image.new("RGB", (size, size + number), COLOURS[number % 4]).save(file, "PNG")
    return file.getvalue()


def write_image(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(number))


def write_parquet(path, rows):
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def struct(number, path=None):
    return {"bytes": picture(number), "path": path}


MME_ASKED = {
    "existence": "Is there a dog in this image?  Please answer yes or no.",
    "count": "Are there two dogs in this image? Please answer yes or no.",
    "position": "Is the dog on the left? Please answer yes or no.",
    "color": "Is there a red dog in this image? Please answer yes or no.",
}


def mme_release(folder):
    """Write MME's release: two images a task, those of color in the other layout."""
    for task, question in MME_ASKED.items():
        texts, images = folder / task, folder / task
        if task == "color":
            texts, images = folder / task / "questions_answers_YN", folder / task / "images"
        for number in range(2):
            write_image(images / f"00{number}.jpg", number)
            texts.mkdir(parents=True, exist_ok=True)
            lines = f"{question}\tYes\n{question.replace('dog', 'cat')}\tNo\n"
            (texts / f"00{number}.txt").write_text(lines)
    (folder / "celebrity").mkdir()
    return folder


def mme_rows(image):
    """Return MME's rows as in a table; `image` makes the image of a number."""
    return [
        {
            "question_id": f"{task}/00{number}.png",
            "image": image(number + 2 * place),
            "question": question.replace("dog", name),
            "answer": answer,
            "category": task,
        }
        for place, (task, question) in enumerate(MME_ASKED.items())
        for number in range(2)
        for name, answer in (("dog", "Yes"), ("cat", "No"))
    ]


def mme_tsv(path):
    """Write MME as VLMEvalKit has it: base64, and the index of an earlier row for one again."""
    lines = ["index\timage\timage_path\tquestion\tanswer\tcategory"]
    for index, row in enumerate(mme_rows(lambda number: number)):
        image = str(index - 1) if index % 2 else base64.b64encode(picture(row["image"])).decode()
        cells = [str(index), image, row["question_id"], row["question"], row["answer"]]
        lines.append("\t".join([*cells, row["category"]]))
    path.write_text("\n".join(lines) + "\n")
    return path


def hallusionbench(folder):
    """Write HallusionBench.json with six questions, two of them without an image, and images."""
    records = []
    for category, kind, figure, visual, answer in (
        ("VD", "illusion", "0", "1", "1"),
        ("VD", "illusion", "1", "2", "0"),
        ("VS", "chart", "0", "0", "1"),
        ("VS", "chart", "1", "1", "1"),
        ("VS", "map", "0", "0", "0"),
        ("VS", "map", "1", "2", "1"),
    ):
        name = None if visual == "0" else f"./{category}/{kind}/0_{figure}.png"
        if name:
            write_image(folder / "hallusion_bench" / name, len(records))
        records.append(
            {
                "category": category,
                "subcategory": kind,
                "visual_input": visual,
                "set_id": "0",
                "figure_id": figure,
                "sample_note": "",
                "question_id": "0",
                "question": f"Is the {kind} right?",
                "gt_answer_details": "",
                "gt_answer": answer,
                "filename": name,
            }
        )
    (folder / "HallusionBench.json").write_text(json.dumps(records))
    return folder / "HallusionBench.json"


def dash_b_lists(folder):
    """Write DASH-B's two lists with their images."""
    for side, label in (("neg", 0), ("pos", 1)):
        names = {"coco": {"dog": ["1.png", "2.png"]}, "other": {"car seat": ["1.png"]}}
        path = folder / "images" / f"dash_benchmark_{side}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(names))
        for dataset, objects in names.items():
            for name, files in objects.items():
                for number, file in enumerate(files):
                    write_image(folder / "images" / side / dataset / name / file, number + label)
    return folder


def dash_b_rows():
    return [
        {
            "image": struct(number),
            "question_id": number,
            "img_id": f"{number}.png",
            "object": name,
            "question": f"Can you see a {name} in this image? Please answer only with yes or no.",
            "answer": answer,
        }
        for number, (name, answer) in enumerate(
            [("dog", "yes"), ("dog", "no"), ("vase", "yes"), ("vase", "no")]
        )
    ]


def popev2_rows():
    return [
        {
            "example_id": str(number),
            "image_id": number,
            "normal_image": struct(2 * number),
            "counterfactual_image": struct(2 * number + 1),
            "target_object": name,
            "question": f"Is there a {name} in the image?",
            "normal_label": "yes",
            "counterfactual_label": "no",
        }
        for number, name in enumerate(("clock", "vase", "kite"))
    ]


def humblebench_rows():
    options = "A. red\nB. green\nC. blue\nD. white\nE. None of the above"
    return [
        {
            "question_id": number,
            "question": f"Which colour is the kite?\n{options}",
            "label": label,
            "type": kind,
            "image": struct(number // 2),
        }
        for number, (label, kind) in enumerate(
            [("A", "Object"), ("E", "Object"), ("C", "Relation"), ("D", "Attribute")]
        )
    ]


def mmhal(folder):
    """Write two of MMHal-Bench's records with their images."""
    records = []
    for number, kind in enumerate(("attribute", "adversarial")):
        write_image(folder / "images" / f"{number}_o.jpg", number)
        records.append(
            {
                "question_type": kind,
                "question_topic": "indoor",
                "image_id": f"{number:016x}",
                "image_src": f"https://example.org/1/{number}_o.jpg",
                "image_content": ["Dog", "Bench"],
                "question": f"What is on the bench, {kind}?",
                "gt_answer": "A dog sits on the bench.",
                "model_answer": "",
            }
        )
    (folder / "response_template.json").write_text(json.dumps(records))
    return folder / "response_template.json"


def write_answers(path, answers):
    """Write answers by question as JSON Lines."""
    lines = [{"question_id": key, "answer": text} for key, text in answers.items()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def amber(folder):
    """Write AMBER's data for two images, each described and asked about, and the images."""
    kinds = {
        "existence": ("discriminative-hallucination", "no", "Is there a cat in this image?"),
        "attribute": ("discriminative-attribute-state", "yes", "Is the sky sunny in this image?"),
        "relation": ("relation", "no", "Is there direct contact between the dog and the car?"),
    }
    items = [
        {"id": number + 1, "type": "generative", "truth": ["dog", "sky"], "hallu": ["cat"]}
        for number in range(2)
    ]
    queries = {"generative": [("Describe this image.", number + 1) for number in range(2)]}
    for name, (kind, truth, text) in kinds.items():
        asked = queries.setdefault(f"discriminative-{name}", [])
        for _ in range(2):
            items.append({"id": len(items) + 1, "type": kind, "truth": truth})
            asked.append((text, len(items)))
    for name, asked in queries.items():
        content = [
            {"id": number, "image": f"AMBER_{at + 1}.jpg", "query": text}
            for at, (text, number) in enumerate(asked)
        ]
        (folder / f"query_{name}.json").write_text(json.dumps(content))
    (folder / "annotations.json").write_text(json.dumps(items))
    (folder / "relation.json").write_text(json.dumps({"dog": ["puppy"], "cat": [], "sky": []}))
    (folder / "safe_words.txt").write_text("scene\n")
    for number in range(2):
        write_image(folder / "images" / f"AMBER_{number + 1}.jpg", number)
    return folder

"""Where each benchmark's data come from, under which licence, and what should be there."""

from collections.abc import Mapping
from dataclasses import dataclass, field

OBJECTS = "COCO annotations CC BY 4.0; images under the licences of their photographers (Flickr)"


@dataclass(frozen=True)
class Listing:
    """One entry.

    Args:
        title: the benchmark.
        where: where to get what.
        files: what belongs on disk.
        licence: as its authors state it.
        command: how to use it, without the program's name.
        counts: what `eval data NAME --data ...` expects to count.
        sha256: file name -> digests of the versions known to us.
    """

    title: str
    where: tuple[str, ...]
    files: tuple[str, ...]
    licence: str
    command: str
    counts: Mapping[str, int] = field(default_factory=dict)
    sha256: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def _predict(name: str, data: str, images: str = "") -> str:
    folder = f" --images {images}" if images else ""
    return f"eval predict {name} --data {data}{folder} --model M --out runs/{name}"


LISTINGS: Mapping[str, Listing] = {
    "coco": Listing(
        "COCO 2014 or 2017, for captions (CHAIR) and for questions made from them",
        (
            "http://images.cocodataset.org/zips/val2014.zip (or val2017.zip)",
            "http://images.cocodataset.org/annotations/annotations_trainval2014.zip (or 2017)",
        ),
        (
            "annotations/instances_val2014.json",
            "annotations/captions_val2014.json",
            "val2014/*.jpg",
        ),
        OBJECTS,
        "eval predict --data COCO --num 500 --model M --out runs/coco",
    ),
    "pope": Listing(
        "POPE (Li et al., EMNLP 2023) and corrected labels (RePOPE, Neuhaus and Hein, 2025)",
        (
            "https://github.com/RUCAIBox/POPE, folder output (MIT)",
            "https://github.com/YanNeu/RePOPE, folder annotations",
            "images: COCO val2014 (see coco); A-OKVQA's are COCO's, GQA's come from "
            "https://cs.stanford.edu/people/dorarad/gqa",
        ),
        ("coco_pope_random.json, coco_pope_popular.json, coco_pope_adversarial.json",),
        "MIT; images as COCO's",
        "eval predict --task pope --data coco_pope_random.json --data coco_pope_popular.json "
        "--data coco_pope_adversarial.json --images val2014 --model M --out runs/pope",
    ),
    "amber": Listing(
        "AMBER (Wang et al., 2023): descriptions, and yes/no questions on existence, attributes "
        "and relations",
        (
            "https://github.com/junyangwang0410/AMBER, folder data",
            "images: the link in its README (Google Drive)",
        ),
        (
            "annotations.json, relation.json, safe_words.txt",
            "query_generative.json, query_discriminative-existence.json, -attribute, -relation",
            "AMBER_1.jpg to AMBER_1004.jpg",
        ),
        "Apache-2.0",
        "eval predict --task amber --data AMBER/data --images AMBER/image --model M "
        "--out runs/amber",
        {"questions": 15_220, "images": 1_004},
        {
            "annotations.json": (
                "db22a436c4836fbb295e60b4e80d519573077579fb7032f01b193c1bd022b797",
            ),
            "relation.json": ("c4c1491e9bbc3209abc1888c12a1bf8413bdbab8a0d8be04b990a2e7680cf23e",),
            "safe_words.txt": ("f92cf1123f4578a2630832fac3e6ac4de36212ea55859d3bed4fd233723f4043",),
            "query_generative.json": (
                "b7e4c36596126ee36d2c3922638b7fa98743c26efda78fea2315f4425258d087",
            ),
            "query_discriminative-existence.json": (
                "657cce3b3ccd02303998d7d27d1ce06bd210a7a55aa6c888b1b86d5a9dfd9849",
            ),
            "query_discriminative-attribute.json": (
                "35c0fe71290789c5eb198e9a3f5732533bcb35f1d963b57539aab5d1b41dd827",
            ),
            "query_discriminative-relation.json": (
                "36e08860653a1562acb657c250604c3d4e26f8a5f99a376fd53c67f9242be20f",
            ),
        },
    ),
    "mme": Listing(
        "MME (Fu et al., 2023): the tasks existence, count, position and color",
        (
            "https://huggingface.co/datasets/darkyarding/MME (MME_Benchmark_release_version.zip)",
            "https://huggingface.co/datasets/lmms-lab/MME (Parquet)",
        ),
        (
            "MME_Benchmark_release_version/existence/*.jpg and *.txt, count, position, color",
            "or the Parquet files, or VLMEvalKit's MME.tsv",
        ),
        "no licence file",
        _predict("mme", "MME_Benchmark_release_version"),
        {
            "questions": 240,
            "images": 120,
            **dict.fromkeys(("existence", "count", "position", "color"), 60),
        },
    ),
    "hallusionbench": Listing(
        "HallusionBench (Guan et al., CVPR 2024)",
        (
            "https://github.com/tianyi-lab/HallusionBench (HallusionBench.json)",
            "images: hallusion_bench.zip, linked in its README (Google Drive)",
        ),
        ("HallusionBench.json", "hallusion_bench/VD/..., hallusion_bench/VS/..."),
        "BSD-3-Clause",
        _predict("hallusionbench", "HallusionBench.json", "hallusion_bench"),
        {"questions": 1_129, "questions with an image": 951, "images": 346},
        {
            "HallusionBench.json": (
                "ca6e0fb677dd56e5fb0e2700d06c58d01f8a6ae66e0f1773b2ac48c0a095d051",
            )
        },
    ),
    "dash-b": Listing(
        "DASH-B (Augustin et al., ICCV 2025): objects that models see where they are not",
        (
            "https://huggingface.co/datasets/YanNeu/DASH-B (Parquet)",
            "https://github.com/YanNeu/DASH-B (lists; images linked in its README)",
        ),
        (
            "the Parquet files",
            "or images/dash_benchmark_neg.json, images/dash_benchmark_pos.json, images/neg, "
            "images/pos",
        ),
        "no licence file",
        _predict("dash-b", "DASH-B"),
        {"questions": 2_682, "answer yes": 1_341, "answer no": 1_341, "objects": 70},
    ),
    "popev2": Listing(
        "POPEv2 (2025): an object asked for on a photo, and on the photo without it",
        ("https://huggingface.co/datasets/Monosail/POPEv2 (test.parquet)",),
        ("test.parquet",),
        "repository MIT; images as COCO's",
        _predict("popev2", "test.parquet"),
        {"questions": 1_000, "rows": 500},
    ),
    "humblebench": Listing(
        "HumbleBench (Tong et al., 2025): five options, the last of them none of the above",
        ("https://huggingface.co/datasets/maifoundations/HumbleBench (Parquet, split train)",),
        ("the Parquet files",),
        "MIT",
        _predict("humblebench", "HumbleBench") + " (humblebench-e without the right options)",
    ),
    "mmhal": Listing(
        "MMHal-Bench (Sun et al., 2023): open questions for a judge",
        (
            "https://huggingface.co/datasets/Shengcao1006/MMHal-Bench",
            "images: the Flickr addresses in image_src",
        ),
        ("response_template.json", "one image per record, named as at the end of image_src"),
        "code GPL-3.0; images under the licences of their photographers",
        _predict("mmhal", "response_template.json", "FOLDER")
        + "; then eval requests mmhal, a judge, and eval score mmhal",
        {"questions": 96},
    ),
    "openchair": Listing(
        "OpenCHAIR (Ben-Kish et al., EMNLP 2024): captions for a judge",
        (
            "https://huggingface.co/datasets/moranyanuka/OpenCHAIR (Parquet, split test)",
            "concreteness: Brysbaert et al. (2014), supplementary table, saved as CSV",
        ),
        ("the Parquet files", "concreteness.csv with columns Word and Conc.M"),
        "no licence file",
        _predict("openchair", "OpenCHAIR")
        + "; then eval requests openchair, a judge, and eval score openchair",
    ),
    "capture": Listing(
        "CAPTURE on DetailCaps-4870 (Dong et al., 2024): only the matching of parsed captions",
        (
            "https://huggingface.co/datasets/foundation-multimodal-models/DetailCaps-4870",
            "parser: lizhuang144/flan-t5-base-VG-factual-sg (FactualSceneGraph)",
        ),
        (
            'graphs.jsonl: {"id", "candidate": {"objects", "attributes", "relations"}, '
            '"references": [...]}',
        ),
        "Apache-2.0",
        "eval score capture graphs.jsonl",
    ),
}

"""Which features (Sec. IV-C), each with a learning rate of its own.

    cgn sweep search_spaces/backbones.py --data runs/cache/mias-all-... --gpus 0.5
    cgn sweep search_spaces/backbones.py --data ... --set backbone_weights=imagenet

Cost: ResNet-50 is several times AlexNet; on a CPU take fewer --trials and --set epochs=5 to look around.
Expect ImageNet weights to matter more than the architecture, and differences between backbones to drown
in the spread of the folds on a hundred pairs.
"""

from cgn.config import Config
from cgn_platform.space import Choice, Float, Prune, Space

SPACE = Space(
    base=Config(),
    dimensions={
        "backbone": Choice(("alexnet", "resnet18", "resnet50")),
        "learning_rate": Float(1e-5, 1e-3, log=True),
    },
    first=[{"backbone": "resnet18"}, {"backbone": "resnet50"}],
    trials=24,
    prune=Prune("hyperband", warmup_epochs=5, reduction_factor=3),
)

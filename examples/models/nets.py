"""The four example networks: small classifiers for 28x28 grey images, input [N,1,28,28], logits [N,10]."""

import torch
from torch import Tensor, nn


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias, padded so that stride 1 keeps the size."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


class Residual(nn.Module):
    """ResNet's basic block; where the shape changes, the shortcut is a 1x1 projection (option B)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        same = stride == 1 and inputs == outputs
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + self.shortcut(x))


class ResNet20(nn.Module):
    """ResNet-20-style: a stem at 28x28, then three stages of three blocks at 14x14, 7x7 and 4x4."""

    def __init__(self, widths: tuple[int, int, int] = (16, 32, 64)) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(1, 16), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        inputs, stages = 16, []
        for width in widths:
            blocks = [Residual(inputs if i == 0 else width, width, 2 if i == 0 else 1) for i in range(3)]
            stages.append(nn.Sequential(*blocks))
            inputs = width
        self.stage1, self.stage2, self.stage3 = stages
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage3(self.stage2(self.stage1(self.stem(x))))
        return self.fc(torch.flatten(self.pool(x), 1))


class InvertedResidual(nn.Module):
    """MobileNetV2's block: expand 1x1, depthwise 3x3, project 1x1, ReLU6 between them."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        self.body = nn.Sequential(
            conv(inputs, hidden, 1),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            conv(hidden, hidden, 3, stride, groups=hidden),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            conv(hidden, outputs, 1),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class MobileNetV2(nn.Module):
    """MobileNetV2-style; pools with a mean over the spatial axes, as the first published versions did."""

    # (outputs, stride, expansion); the stem leaves 16 channels at 14x14
    BLOCKS = ((24, 1, 3), (24, 1, 3), (40, 2, 4), (40, 1, 4), (64, 2, 4), (64, 1, 4), (64, 1, 4))

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(1, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU6(inplace=True))
        inputs, blocks = 16, []
        for outputs, stride, expand in self.BLOCKS:
            blocks.append(InvertedResidual(inputs, outputs, stride, expand))
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(conv(inputs, 160, 1), nn.BatchNorm2d(160), nn.ReLU6(inplace=True))
        self.fc = nn.Linear(160, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.blocks(self.stem(x)))
        return self.fc(x.mean([2, 3]))


class DenseLayer(nn.Module):
    """BatchNorm, ReLU, 3x3 convolution; the result is appended to the input's channels."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv = conv(inputs, growth)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(self.relu(self.bn(x)))], 1)


class DenseNet(nn.Module):
    """DenseNet-style: its BatchNorms stand before the convolutions, behind a concat, and can't be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(1, 24, 3, 2)
        self.dense1 = nn.Sequential(*(DenseLayer(24 + 12 * i, 12) for i in range(4)))
        self.transition = nn.Sequential(
            nn.BatchNorm2d(72), nn.ReLU(inplace=True), conv(72, 48, 1), nn.AvgPool2d(2)
        )
        self.dense2 = nn.Sequential(*(DenseLayer(48 + 16 * i, 16) for i in range(6)))
        self.norm = nn.BatchNorm2d(144)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(144, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dense2(self.transition(self.dense1(self.stem(x))))
        return self.fc(torch.flatten(self.pool(self.relu(self.norm(x))), 1))


class SqueezeExcite(nn.Module):
    """Scales each channel by a sigmoid gate computed from the channels' means."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.act = nn.SiLU(inplace=True)
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.expand(self.act(self.reduce(self.pool(x)))))


class MBConv(nn.Module):
    """EfficientNet's block: expand 1x1, depthwise, squeeze-and-excite, project 1x1, SiLU between them."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        layers: list[nn.Module] = []
        if expand != 1:
            layers += [conv(inputs, hidden, 1), nn.BatchNorm2d(hidden), nn.SiLU(inplace=True)]
        layers += [
            conv(hidden, hidden, kernel, stride, groups=hidden),
            nn.BatchNorm2d(hidden),
            nn.SiLU(inplace=True),
            SqueezeExcite(hidden, max(1, inputs // 4)),
            conv(hidden, outputs, 1),
            nn.BatchNorm2d(outputs),
        ]
        self.body = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class EfficientNet(nn.Module):
    """EfficientNet-style, with one stage of 5x5 depthwise kernels."""

    # (outputs, kernel, stride, expansion); the stem leaves 16 channels at 14x14
    BLOCKS = ((16, 3, 1, 1), (24, 3, 1, 3), (40, 5, 2, 4), (40, 5, 1, 4), (64, 3, 2, 4), (64, 3, 1, 4))

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(1, 16, 3, 2), nn.BatchNorm2d(16), nn.SiLU(inplace=True))
        inputs, blocks = 16, []
        for outputs, kernel, stride, expand in self.BLOCKS:
            blocks.append(MBConv(inputs, outputs, kernel, stride, expand))
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(conv(inputs, 160, 1), nn.BatchNorm2d(160), nn.SiLU(inplace=True))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(160, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.head(self.blocks(self.stem(x))))
        return self.fc(torch.flatten(x, 1))


NETS: dict[str, type[nn.Module]] = {
    "resnet20": ResNet20,
    "mobilenetv2": MobileNetV2,
    "densenet": DenseNet,
    "efficientnet": EfficientNet,
}


def macs(net: nn.Module) -> int:
    """Multiply-accumulates of all convolutions and linear layers for one image."""
    total = 0

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += output[0].numel() * module.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    training = net.training
    with torch.no_grad():
        net.eval()(torch.zeros(1, 1, 28, 28))
    net.train(training)
    for hook in hooks:
        hook.remove()
    return total

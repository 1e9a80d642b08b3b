"""attach(): put plugins on a model for a while, and take them away without a trace."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from torch import nn

from vlmheads.errors import VlmHeadsError
from vlmheads.model.anatomy import Anatomy, examine, unwrap
from vlmheads.plugin import Plugin
from vlmheads.recommended import resolve_for
from vlmheads.runtime.compat import COMPILED_CALL, is_compiled, is_generating
from vlmheads.runtime.hooks import Installation

# The attribute of an attached model that holds what is attached to it.
ATTACHED = "_vlmheads"


class Attachment:
    """Plugins that act on a model until `detach`; also a context manager.

    Attachments of one model stack: plugins act in the order in which they were attached, within
    one Request, and each attachment can be detached on its own, in any order.

    Args:
        anatomy: the parts of the model.
        plugins: in the order in which they act.
    """

    def __init__(self, anatomy: Anatomy, plugins: tuple[Plugin, ...]) -> None:
        self.anatomy, self.plugins = anatomy, plugins

    @property
    def model(self) -> Any:
        """The model that the plugins act on."""
        return self.anatomy.model

    @property
    def attached(self) -> bool:
        """Whether the plugins act now."""
        stack: _Stack | None = getattr(self.model, ATTACHED, None)
        return stack is not None and self in stack.attachments

    def detach(self) -> None:
        """Leave the model as it was before; a second call does nothing.

        Raises:
            VlmHeadsError: the model is generating.
        """
        if self.attached:
            _refuse_generating(self.model, "detach from")
            stack: _Stack = getattr(self.model, ATTACHED)
            stack.change([other for other in stack.attachments if other is not self])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.detach()

    def __repr__(self) -> str:
        state = "attached" if self.attached else "detached"
        return f"<Attachment of {list(self.plugins)} on {type(self.model).__name__}, {state}>"


class _Stack:
    """All attachments of one model, and the one installation that serves them.

    It refers to the model through the anatomy alone, so that a deep copy of an attached model is
    attached, too: hooks, state and attachments are copied with it.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self.attachments: list[Attachment] = []
        self.installation: Installation | None = None

    def change(self, attachments: list[Attachment]) -> None:
        """Install what `attachments` need in place of what is installed: all of it, or nothing."""
        before = self.attachments
        try:
            self._install(attachments)
        except BaseException:
            self._install(before)
            raise

    def _install(self, attachments: list[Attachment]) -> None:
        if self.installation is not None:
            self.installation.remove()
        self.attachments, self.installation = attachments, None
        model = self.anatomy.model
        if not attachments:
            model.__dict__.pop(ATTACHED, None)
            return
        setattr(model, ATTACHED, self)
        plugins = tuple(plugin for item in attachments for plugin in item.plugins)
        self.installation = Installation(self.anatomy, plugins)
        self.installation.install()


def attach(model: Any, plugins: str | Plugin | Iterable[str | Plugin]) -> Attachment:
    """Let plugins act on every `model.generate(...)` until the attachment is detached.

    >>> with vlmheads.attach(model, "auto"):
    ...     output = model.generate(**inputs, max_new_tokens=64)

    Greedy search, sampling, beams, prompt lookup, batches and streamers work as without. A prompt
    without an image passes through untouched. Wrappers of PEFT, torch.compile and DDP are looked
    through: plugins act on the model inside, which is what the wrapper runs.
    `output_hidden_states` shows the states that plugins edited; `output_attentions` shows the
    weights of the model's own function, before plugins edit them.

    It is all or nothing: where something is refused, the model is as it was before. A deep copy
    of an attached model is attached, too; `copy.deepcopy((model, attachment))` copies the handle
    with it.

    Args:
        model: a transformers model for image-text-to-text generation.
        plugins: a name, a name with options ("vhr:alpha=1.5"), a Plugin object, a preset file, or
            a list of them, in the order in which they act; or "auto" for the preset that was
            measured on this model. Where there is none, nothing is attached, and a line on the log
            "vlmheads" says so.

    Raises:
        VlmHeadsError: a model that cannot be attached to, an unknown plugin, options that do not
            fit the model, two plugins that claim the same site, a model that is generating, or one
            that was compiled before, whose graph would not see the plugins.
    """
    found = resolve_for(model, plugins)
    model = unwrap(model)
    stack: _Stack | None = getattr(model, ATTACHED, None)
    anatomy = examine(model) if stack is None else stack.anatomy
    _refuse_compiled(model, fresh=stack is None)
    _refuse_generating(model, "attach to")
    before = [] if stack is None else stack.attachments
    _refuse_conflicts([plugin for item in before for plugin in item.plugins] + list(found))
    for plugin in found:
        plugin.fit(anatomy.geometry)
    stack = stack or _Stack(anatomy)
    attachment = Attachment(anatomy, found)
    stack.change([*before, attachment])
    return attachment


def refuse_attached(anatomy: Anatomy) -> None:
    """Refuse a model on which plugins act.

    Raises:
        VlmHeadsError: something is attached to it.
    """
    if ATTACHED in vars(anatomy.model):
        raise VlmHeadsError(
            f"a {type(anatomy.model).__name__} with plugins attached",
            "the plain model",
            "detach the plugins first",
        )


def _refuse_generating(model: Any, what: str) -> None:
    """Refuse to change what is attached while any thread is inside of generate()."""
    if is_generating(model):
        raise VlmHeadsError(
            f"{what} a {type(model).__name__} that is generating",
            "a model between two generations",
            "wait for the generation to end, or load the model a second time",
        )


def _refuse_conflicts(plugins: list[Plugin]) -> None:
    """Refuse one object twice, and two plugins that claim one site."""
    claimed: dict[str, Plugin] = {}
    for index, plugin in enumerate(plugins):
        if any(plugin is other for other in plugins[:index]):
            raise VlmHeadsError(
                f"the same {plugin.name} object attached twice",
                "each plugin object once",
                "make a second object",
            )
        for claim in _claims(plugin):
            if claim in claimed:
                raise VlmHeadsError(
                    f"{claimed[claim].name} and {plugin.name} both claim the site {claim!r}",
                    "one plugin for it",
                    "attach one of the two",
                )
            claimed[claim] = plugin


def _claims(plugin: Plugin) -> set[str]:
    """Return the sites that a plugin claims; editing logits by another stream's is one."""
    contrasts = plugin.streams and "on_logits" in plugin.hooks()
    return {*plugin.claims, *(["contrast"] if contrasts else [])}


def _refuse_compiled(model: nn.Module, fresh: bool) -> None:
    """Refuse a model with a graph that was traced before the hooks were there.

    generate() keeps its own graph as `_compiled_call`; one that it made while attached goes with
    the installation.
    """
    compiled = [
        name or type(model).__name__
        for name, module in model.named_modules()
        if is_compiled(module)
    ]
    if compiled or (fresh and any(COMPILED_CALL in vars(part) for part in model.modules())):
        raise VlmHeadsError(
            f"{', '.join(compiled[:3]) or type(model).__name__} was compiled before attach",
            "a model that is compiled, if at all, while attached",
            "attach first, then compile; here, load the model again, or, where generate() "
            "compiled it, call torch.compiler.reset() and delete model._compiled_call",
        )

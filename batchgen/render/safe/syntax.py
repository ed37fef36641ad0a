"""How templates are read, and the code that they become: it calls the environment for whatever makes a value."""

from collections.abc import Callable

import jinja2
import jinja2.compiler
import jinja2.ext
import jinja2.nodes
import jinja2.parser

_CONSTANT = (jinja2.nodes.Const, jinja2.nodes.TemplateData)


class Generation(jinja2.ext.Extension):
    """Transformers' {% generation %} block, which marks the assistant's text for training: its body is kept."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node | list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Generator(jinja2.compiler.CodeGenerator):
    """Writes what makes a value as a call of the environment."""

    def buffer(self, frame: jinja2.compiler.Frame) -> None:
        frame.buffer = self.temporary_identifier()
        self.writeline(f"{frame.buffer} = environment.buffer()")

    def visit_List(self, node: jinja2.nodes.List, frame: jinja2.compiler.Frame) -> None:
        self._made(super().visit_List, node, frame)

    def visit_Tuple(self, node: jinja2.nodes.Tuple, frame: jinja2.compiler.Frame) -> None:
        if node.ctx == "load":
            self._made(super().visit_Tuple, node, frame)
        else:
            super().visit_Tuple(node, frame)

    def visit_Dict(self, node: jinja2.nodes.Dict, frame: jinja2.compiler.Frame) -> None:
        self._made(super().visit_Dict, node, frame)

    def _made(self, visit: Callable[..., None], node: jinja2.nodes.Expr, frame: jinja2.compiler.Frame) -> None:
        constant = all(isinstance(part, _CONSTANT) for part in node.iter_child_nodes())
        self.write("(" if constant else "environment.made(")
        visit(node, frame)
        self.write(")")

    def visit_Getitem(self, node: jinja2.nodes.Getitem, frame: jinja2.compiler.Frame) -> None:
        if not isinstance(node.arg, jinja2.nodes.Slice):
            super().visit_Getitem(node, frame)
            return
        self.write("environment.sliced(")
        self.visit(node.node, frame)
        for bound in (node.arg.start, node.arg.stop, node.arg.step):
            self.write(", ")
            self.visit(bound or jinja2.nodes.Const(None), frame)
        self.write(")")

    def visit_Concat(self, node: jinja2.nodes.Concat, frame: jinja2.compiler.Frame) -> None:
        """`a ~ b` through the environment, which caps it."""
        self.write("environment.concatenate((")
        for operand in node.nodes:
            self.visit(operand, frame)
            self.write(", ")
        self.write("))")

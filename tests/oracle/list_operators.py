"""Writes what ONNX defines: one line an operator, as domain, name, opsets of its forms; tabs between.

    python tests/oracle/list_operators.py [--contrib contrib_schemas.json] > docs/onnx-operators.tsv

Standard operators and those of ai.onnx.ml and the previews come from the package onnx; the contributed ones of ONNX Runtime
from a file of their schemas. Forms that went out of use before opset 6 are left out.
"""

import argparse
import json
from pathlib import Path

from onnx import defs

# The oldest opset whose operators are listed.
OLDEST_OPSET = 6


def forms():
    """Opsets of the forms by (domain, name)."""
    found = {}
    for schema in defs.get_all_schemas_with_history():
        found.setdefault((schema.domain, schema.name), set()).add((schema.since_version, schema.deprecated))
    return found


def in_use(domain, versions):
    """Opsets of forms that a model of the oldest opset or a newer one may have."""
    opsets = sorted(v for v, deprecated in versions if not deprecated)
    if domain:
        return opsets
    ends = sorted(v for v, _ in versions)
    return [v for v in opsets if next((e for e in ends if e > v), OLDEST_OPSET + 1) > OLDEST_OPSET]


def contributed(path):
    """Names of the contributed operators."""
    schemas = json.loads(path.read_text())
    rows = schemas if isinstance(schemas, list) else schemas.get("schemas", schemas.get("operators", schemas))
    if isinstance(rows, dict):
        return sorted(rows)
    return sorted({row["name"] for row in rows})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contrib", type=Path, help="schemas of the contributed operators")
    args = parser.parse_args()
    rows = [(domain, name, in_use(domain, versions)) for (domain, name), versions in forms().items()]
    if args.contrib:
        rows += [("com.microsoft", name, [1]) for name in contributed(args.contrib)]
    for domain, name, opsets in sorted(rows):
        if opsets:
            print(domain or "ai.onnx", name, " ".join(map(str, opsets)), sep="\t")


if __name__ == "__main__":
    main()

"""Checks a file with an OpenAPI document: its form, and its examples by its schemas. Runs in the environment of schema.py."""

import json
import pathlib
import sys

from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import OpenAPIV31SpecValidator, validate


def contents(document):
    """Each body and parameter: its place, its schema, and its examples. Those of refused requests are left out."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            place = f"{method.upper()} {path}"
            accepted = accepted_examples(operation)
            for parameter in operation.get("parameters", []):
                if "name" in parameter:
                    yield f"{place} {parameter['name']}", parameter["schema"], chosen(parameter, accepted)
            for content in operation.get("requestBody", {}).get("content", {}).values():
                yield f"{place} body", content["schema"], chosen(content, accepted)
            for status, answer in operation["responses"].items():
                for content in answer.get("content", {}).values():
                    yield f"{place} {status}", content["schema"], content.get("examples", {})


def accepted_examples(operation):
    return {name for content in operation["responses"]["200"].get("content", {}).values() for name in content.get("examples", {})}


def chosen(part, names):
    return {name: example for name, example in part.get("examples", {}).items() if name in names}


def main():
    document = json.loads(pathlib.Path(sys.argv[1]).read_text())
    validate(document, cls=OpenAPIV31SpecValidator)
    checked, faults = 0, []
    for place, schema, examples in contents(document):
        # The components go along, so that references are found.
        whole = {**schema, "components": document["components"]}
        Draft202012Validator.check_schema(whole)
        validator = Draft202012Validator(whole, format_checker=FormatChecker())
        for name, example in examples.items():
            faults += [f"{place} {name}: {error.message}" for error in validator.iter_errors(example["value"])]
            checked += 1
    for fault in faults:
        print(fault)
    print(f"{sys.argv[1]}: {len(document['paths'])} paths, {checked} examples")
    sys.exit(1 if faults or not checked else 0)


if __name__ == "__main__":
    main()

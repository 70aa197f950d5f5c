"""Check packages, devices, memory, disk, data and weights before a run; report the fix of each problem."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ms_unireid.apps.arguments import JSON, Parser, input_folder, output_file, output_folder
from ms_unireid.apps.checks.machine import examine
from ms_unireid.apps.checks.report import write_report
from ms_unireid.data.findings import to_json, to_table
from ms_unireid.errors import ConfigError, EnvironmentProblem
from ms_unireid.files import write_json, write_text


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        description="Check everything that a run needs and print a table. The exit code is 2 if there is a problem.",
        epilog="example: %(prog)s --config configs/synthetic/demo.yaml --json doctor.json",
    )
    parser.add_argument(
        "--config",
        type=Path,
        action="append",
        help="YAML file or name of the run's config; repeatable, a later one wins. Without it the paper's run is "
        "checked, and missing data and weights are only warnings",
    )
    parser.add_argument("--json", type=output_file(*JSON), help="write the findings to this file as JSON")
    parser.add_argument(
        "--report",
        type=output_file(".zip"),
        metavar="FILE.zip",
        help="write an archive for the maintainers: the findings, what failing checks printed, versions, devices and "
        "variables, without data and names; look into it before you send it",
    )
    parser.add_argument(
        "--logs",
        type=input_folder,
        action="append",
        default=[],
        metavar="DIR",
        help="with --report: msrun's --log_dir, a run folder or CANN's plog, whose logs' ends are added; repeatable",
    )
    parser.add_argument(
        "--limit",
        type=float,
        default=300,
        metavar="SECONDS",
        help="time limit of each device test; the first one on an accelerator may compile for minutes",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="instead of the checks: compile steps and encoders for Ascend in MindSpore's dry run, without Ascend and "
        "CANN, and print what they use; nothing is computed",
    )
    parser.add_argument(
        "--variant", action="append", metavar="NAME", help="dry run: only this variant; repeatable (all the tiny ones)"
    )
    parser.add_argument(
        "--stand-ins", type=output_folder, metavar="FOLDER", help="dry run: keep the stand-ins for CANN here"
    )
    parser.add_argument("--markdown", type=output_file(".md", ".markdown", ".txt", ""), help="dry run: write the table")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change a value of the config")
    return parser.parse_args(arguments)


def _config_of(options: argparse.Namespace) -> Any:
    try:
        from ms_unireid.config import load_config
    except ImportError:
        return None
    return load_config(options.config, options.overrides)


def _dry_run(options: argparse.Namespace) -> None:
    from ms_unireid.apps.checks import dry_run

    variants = [dry_run.find(name) for name in options.variant or dry_run.TINY_VARIANTS]
    results = []
    for found in dry_run.dry_run(variants, options.stand_ins, options.limit):
        print(f"{found.name}: {'not compiled' if found.error else 'compiled'}", file=sys.stderr)
        results.append(found)
    print(dry_run.to_markdown(results))
    if options.json:
        write_json(options.json, dry_run.to_json(results))
    if options.markdown:
        write_text(options.markdown, dry_run.to_markdown(results) + "\n")
    if options.report:
        write_report(options.report, [], None, {"dry_run.md": dry_run.to_markdown(results)}, options.logs)
    failed = [found.name for found in results if found.error]
    if failed:
        raise EnvironmentProblem(f"not compiled: {', '.join(failed)}; the list above says why")


def main(arguments: Sequence[str]) -> None:
    """Run the command with these arguments."""
    options = _parse(arguments)
    if options.logs and not options.report:
        raise ConfigError("--logs are added to an archive; add --report FILE.zip")
    if not options.dry_run and (options.variant or options.stand_ins or options.markdown):
        raise ConfigError("--variant, --stand-ins and --markdown are of the dry run; add --dry-run")
    if options.dry_run:
        if options.config or options.overrides:
            raise ConfigError("--dry-run compiles variants of its own; leave out --config and section.key=value")
        _dry_run(options)
        return
    requested = bool(options.config or options.overrides)
    config, findings, outputs = _config_of(options), [], {}
    for finding in examine(config, requested, options.limit, outputs):
        print(f"{finding.what}: {finding.state}", file=sys.stderr)
        findings.append(finding)
    print(to_table(findings))
    if options.json:
        write_json(options.json, to_json(findings))
    if options.report:
        write_report(options.report, findings, config, outputs, options.logs)
    problems = sum(finding.state == "problem" for finding in findings)
    if problems:
        raise EnvironmentProblem(f"{problems} of {len(findings)} checks found a problem; fix them as the table says")

"""Serve a web page to search an index of photos by description, sketch, or both.

python tools/app.py --index runs/demo/index
python tools/app.py --index INDEX --host 0.0.0.0 --allow-remote --token TOKEN
"""

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence

from ms_unireid.apps.arguments import Parser, checkpoint, output_folder
from ms_unireid.errors import EnvironmentProblem
from ms_unireid.installation import install_extra, job_command
from ms_unireid.runtime import check_packages

TOKEN = "MS_UNIREID_TOKEN"


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        description="Serve a web page to search an index of photos, and print its address. Ctrl-C stops it.",
        epilog="example: %(prog)s --index runs/demo/index",
    )
    parser.add_argument(
        "--index", required=True, help=f"folder of an index, or its address in Milvus; see {job_command('search')} push"
    )
    parser.add_argument("--checkpoint", type=checkpoint, help="the model's file, if it has been moved")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 127.0.0.1: this machine only")
    parser.add_argument("--port", type=int, default=8080, help="port of the page; 0 takes a free one")
    parser.add_argument("--allow-remote", action="store_true", help="let other machines reach the page; needs a token")
    parser.add_argument(
        "--token",
        help=f"token of the users, who open /?token=... once; default: the variable {TOKEN}, which ps does not show",
    )
    parser.add_argument(
        "--cases", type=output_folder, help="folder of case files: shortlists with notes that outlive the page"
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change a value of the config")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Run the job with its command-line arguments."""
    options = _parse(arguments)
    check_packages()
    if importlib.util.find_spec("nicegui") is None:
        raise EnvironmentProblem(f"NiceGUI is not installed; install it with: {install_extra('app')}")
    from ms_unireid.apps.search.engines.opening import open_store
    from ms_unireid.apps.web.access import check_access
    from ms_unireid.apps.web.server import address_of, bind, serve

    token = options.token or os.environ.get(TOKEN) or None
    check_access(options.host, options.allow_remote, token)
    with bind(options.host, options.port) as listener:
        index = open_store(options.index)  # before MindSpore is imported
        index.checkpoint(options.checkpoint)
        from ms_unireid.apps.search.searcher import Searcher
        from ms_unireid.apps.web.cases import Cases
        from ms_unireid.apps.web.site import build_site
        from ms_unireid.apps.web.worker import SearchWorker

        cases = Cases(options.cases) if options.cases else None
        print(f"opening {options.index}", file=sys.stderr)
        worker = SearchWorker(lambda: Searcher.open(index, checkpoint=options.checkpoint, overrides=options.overrides))
        print(address_of(listener))
        serve(build_site(worker, token, cases), listener)

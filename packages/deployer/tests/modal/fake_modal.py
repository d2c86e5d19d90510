"""Modal's servers as far as a job needs them, on 127.0.0.1; runs in an environment with Modal's client.

The table `$FAKE/table.json` is read at each request and written after it: {"user", "apps", "calls",
"functions", "images", "requests", and what goes wrong ("unauthenticated", "spawn_fails", "no_secret",
"build_fails")}. AppStop and a cancellation of a call do what they are asked, whosever it is: calls of others
live only if nobody asks for them. The port goes to `$FAKE/port`; the server ends with its standard input.
"""

# ruff: noqa: N802
from __future__ import annotations

import asyncio
import json
import os
import pickle
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.json_format import MessageToDict, ParseDict
from grpclib import GRPCError, Status
from grpclib.server import Server
from modal_proto import api_grpc, api_pb2

FOLDER = Path(os.environ["FAKE"])
STATUS = api_pb2.GenericResult
FILES = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=FOLDER / "volume"))
"""Of the one volume, `$FAKE/volume`."""
RESULTS = {
    "failed": STATUS.GENERIC_STATUS_FAILURE,
    "terminated": STATUS.GENERIC_STATUS_TERMINATED,
    "timeout": STATUS.GENERIC_STATUS_TIMEOUT,
}
APP_STATES = {
    "detached": api_pb2.APP_STATE_DETACHED,
    "deployed": api_pb2.APP_STATE_DEPLOYED,
    "stopped": api_pb2.APP_STATE_STOPPED,
}


class Table:
    """The table during a request."""

    def __enter__(self) -> dict[str, Any]:
        self.values = json.loads((FOLDER / "table.json").read_text())
        return self.values

    def __exit__(self, *raised: object) -> None:
        (FOLDER / "table.json.new").write_text(json.dumps(self.values))
        os.replace(FOLDER / "table.json.new", FOLDER / "table.json")


def new_id(prefix: str, table: dict[str, Any]) -> str:
    table["next"] += 1
    return f"{prefix}-{table['next']:022d}"


def found(table: dict[str, Any], kind: str, key: str) -> dict[str, Any]:
    if key not in table[kind]:
        raise GRPCError(Status.NOT_FOUND, f"no {kind} {key}")
    return table[kind][key]


class Answers:
    """A method for each request: (table, request) -> answer; names are Modal's."""

    def ClientHello(self, table, request):
        return api_pb2.ClientHelloResponse()

    def AuthTokenGet(self, table, request):
        return api_pb2.AuthTokenGetResponse(token="x.e30.x")

    def EnvironmentGetOrCreate(self, table, request):
        settings = api_pb2.EnvironmentSettings(image_builder_version="2025.06")
        metadata = api_pb2.EnvironmentMetadata(name="main", settings=settings)
        return api_pb2.EnvironmentGetOrCreateResponse(environment_id="en-1", metadata=metadata)

    def WorkspaceNameLookup(self, table, request):
        return api_pb2.WorkspaceNameLookupResponse(username=table["workspace"])

    def AppCreate(self, table, request):
        app_id = new_id("ap", table)
        table["apps"][app_id] = {
            "name": request.description,
            "user": table["user"],
            "created_s": table["now"],
            "tags": dict(request.tags),
            "state": "detached" if request.app_state == api_pb2.APP_STATE_DETACHED else "other",
        }
        return api_pb2.AppCreateResponse(app_id=app_id, app_page_url="https://nowhere")

    def AppGetInfo(self, table, request):
        app = found(table, "apps", request.app_id)
        lifecycle = api_pb2.AppLifecycle(
            app_state=APP_STATES[app["state"]], created_at=app["created_s"], created_by=app["user"]
        )
        return api_pb2.AppGetInfoResponse(
            info=api_pb2.AppHandleMetadata(
                description=app["name"], app_id=request.app_id, lifecycle=lifecycle
            )
        )

    def AppGetOrCreate(self, table, request):
        found(table, "apps", request.app_name)
        return api_pb2.AppGetOrCreateResponse(
            app_id=request.app_name, handle_metadata=self.AppGetInfo(table, _app(request.app_name)).info
        )

    def AppGetTags(self, table, request):
        return api_pb2.AppGetTagsResponse(tags=found(table, "apps", request.app_id)["tags"])

    def AppSetTags(self, table, request):
        found(table, "apps", request.app_id)["tags"] = dict(request.tags)
        return Empty()

    def AppGetByDeploymentName(self, table, request):
        names = {app["name"]: key for key, app in table["apps"].items() if app["state"] == "deployed"}
        return api_pb2.AppGetByDeploymentNameResponse(app_id=names.get(request.name, ""))

    def AppPublish(self, table, request):
        if request.app_state == api_pb2.APP_STATE_DEPLOYED:
            found(table, "apps", request.app_id)["state"] = "deployed"
        return api_pb2.AppPublishResponse(url="https://nowhere")

    def AppHeartbeat(self, table, request):
        return Empty()

    def AppClientDisconnect(self, table, request):
        return Empty()

    def AppStop(self, table, request):
        found(table, "apps", request.app_id)["state"] = "stopped"
        for call in table["calls"].values():
            if call["app"] == request.app_id:
                call["state"] = "terminated"
        return Empty()

    def MountBatchedCheckExistence(self, table, request):
        hashes = request.sha256_hex_hashes
        return api_pb2.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=hashes)

    def MountPutFile(self, table, request):
        table["uploaded"].append(request.sha256_hex)
        return api_pb2.MountPutFileResponse(exists=True)

    def MountGetOrCreate(self, table, request):
        mount_id = new_id("mo", table)
        table["mounts"][mount_id] = sorted(file.filename for file in request.files)
        return api_pb2.MountGetOrCreateResponse(
            mount_id=mount_id,
            handle_metadata=api_pb2.MountHandleMetadata(content_checksum_sha256_hex="0" * 64),
        )

    def ImageGetOrCreate(self, table, request):
        image_id = new_id("im", table)
        table["images"][image_id] = list(request.image.dockerfile_commands)
        failed = table.get("build_fails")
        result = api_pb2.GenericResult(
            status=STATUS.GENERIC_STATUS_FAILURE if failed else STATUS.GENERIC_STATUS_SUCCESS,
            exception=failed or "",
        )
        return api_pb2.ImageGetOrCreateResponse(image_id=image_id, result=result)

    def VolumeGetOrCreate(self, table, request):
        table["volumes"].append(request.deployment_name)
        return api_pb2.VolumeGetOrCreateResponse(volume_id=f"vo-{request.deployment_name}")

    def SecretGetOrCreate(self, table, request):
        table["secrets"][request.deployment_name] = list(request.required_keys)
        if table.get("no_secret"):
            raise GRPCError(Status.NOT_FOUND, f"Secret '{request.deployment_name}' not found")
        return api_pb2.SecretGetOrCreateResponse(secret_id=f"st-{request.deployment_name}")

    def FunctionPrecreate(self, table, request):
        function_id = new_id("fu", table)
        metadata = api_pb2.FunctionHandleMetadata(function_name=request.function_name)
        return api_pb2.FunctionPrecreateResponse(function_id=function_id, handle_metadata=metadata)

    def FunctionCreate(self, table, request):
        function_id = request.existing_function_id or new_id("fu", table)
        has_choices = not request.HasField("function")
        definition = request.function_data if has_choices else request.function
        table["functions"][function_id] = {"app": request.app_id, "spec": MessageToDict(definition)}
        metadata = api_pb2.FunctionHandleMetadata(function_name=definition.function_name)
        answer = api_pb2.FunctionCreateResponse(function_id=function_id, handle_metadata=metadata)
        if has_choices:
            answer.function_data.CopyFrom(definition)
        else:
            answer.function_data.ranked_functions.add(rank=0, function=definition)
        return answer

    def FunctionGet(self, table, request):
        app = next(key for key, app in table["apps"].items() if app["name"] == request.app_name)
        key, entry = next((key, one) for key, one in table["functions"].items() if one["app"] == app)
        metadata = api_pb2.FunctionHandleMetadata(
            function_name=request.object_tag, web_url=f"https://{request.app_name}.nowhere"
        )
        answer = api_pb2.FunctionGetResponse(function_id=key, handle_metadata=metadata)
        ParseDict({"ranked_functions": [{"function": entry["spec"]}]}, answer.function)
        return answer

    def VolumeListFiles(self, table, request):
        below = FOLDER / "volume" / request.path.strip("/")
        if not below.is_dir():
            raise GRPCError(Status.NOT_FOUND, f"no {request.path}")
        files = sorted(path.relative_to(FOLDER / "volume") for path in below.rglob("*") if path.is_file())
        entries = [api_pb2.FileEntry(path=str(path), type=api_pb2.FileEntry.FILE) for path in files]
        return api_pb2.VolumeListFilesResponse(entries=entries)

    def VolumeGetFile2(self, table, request):
        size = (FOLDER / "volume" / request.path).stat().st_size
        url = f"http://127.0.0.1:{FILES.server_port}/{request.path}"
        return api_pb2.VolumeGetFile2Response(size=size, start=0, len=size, get_urls=[url])

    def VolumePutFiles(self, table, request):
        for file in request.files:
            table["sent"].append(file.filename)
        return Empty()

    def VolumeRemoveFile(self, table, request):
        table["removed"].append(request.path)
        return Empty()

    def FunctionMap(self, table, request):
        if table.get("spawn_fails"):
            raise GRPCError(Status.INVALID_ARGUMENT, table["spawn_fails"])
        call_id = new_id("fc", table)
        app = found(table, "functions", request.function_id)["app"]
        table["calls"][call_id] = {"app": app, "user": table["user"], "state": "pending", "log": []}
        item = api_pb2.FunctionPutInputsResponseItem(idx=0, input_id=new_id("in", table))
        return api_pb2.FunctionMapResponse(function_call_id=call_id, pipelined_inputs=[item])

    def FunctionGetOutputs(self, table, request):
        call = found(table, "calls", request.function_call_id)
        if call["state"] in ("pending", "running"):
            return api_pb2.FunctionGetOutputsResponse(num_unfinished_inputs=1)
        if call["state"] == "expired":
            return api_pb2.FunctionGetOutputsResponse()
        if call["state"] == "success":
            result = STATUS(status=STATUS.GENERIC_STATUS_SUCCESS, data=pickle.dumps(call["exit"]))
        else:
            result = STATUS(status=RESULTS[call["state"]], exception=call.get("reason", ""))
        item = api_pb2.FunctionGetOutputsItem(result=result, data_format=api_pb2.DATA_FORMAT_PICKLE)
        return api_pb2.FunctionGetOutputsResponse(outputs=[item])

    def FunctionCallFromId(self, table, request):
        call = found(table, "calls", request.function_call_id)
        metadata = api_pb2.FunctionCallHandleMetadata(app_id=call["app"], function_id="fu-1")
        return api_pb2.FunctionCallFromIdResponse(
            function_call_id=request.function_call_id, num_inputs=1, metadata=metadata
        )

    def FunctionCallGetInfo(self, table, request):
        state = found(table, "calls", request.function_call_id)["state"]
        done = api_pb2.InputCategoryInfo(total=int(state not in ("pending", "running")))
        info = api_pb2.FunctionCallInfo(
            function_call_id=request.function_call_id, total_inputs=1, succeeded_inputs=done
        )
        return api_pb2.FunctionCallGetInfoResponse(info=info)

    def FunctionCallCancel(self, table, request):
        call = found(table, "calls", request.function_call_id)
        call["state"], call["reason"] = "terminated", "Input was cancelled by user"
        call["terminate_containers"] = request.terminate_containers
        return Empty()

    def AppCountLogs(self, table, request):
        count = sum(len(call["log"]) for call in table["calls"].values() if call["app"] == request.app_id)
        bucket = api_pb2.AppCountLogsResponse.LogBucket(stdout_logs=count)
        bucket.bucket_start_at.CopyFrom(request.since)
        return api_pb2.AppCountLogsResponse(buckets=[bucket])

    def AppFetchLogs(self, table, request):
        lines = [] if not request.function_call_id else _lines(table, request.function_call_id)
        lines = lines[-request.limit :] if request.limit else lines
        return api_pb2.AppFetchLogsResponse(batches=[api_pb2.TaskLogsBatch(items=lines)])

    def AppGetLogs(self, table, request):
        is_new = request.function_call_id and not request.last_entry_id
        lines = _lines(table, request.function_call_id) if is_new else []
        return api_pb2.TaskLogsBatch(entry_id="1-0", items=lines)


def _app(app_id: str) -> Any:
    return api_pb2.AppGetInfoRequest(app_id=app_id)


def _lines(table: dict[str, Any], call_id: str) -> list[Any]:
    start_s = time.time() - 60
    return [
        api_pb2.TaskLogs(data=text, timestamp=start_s + i, file_descriptor=api_pb2.FILE_DESCRIPTOR_STDOUT)
        for i, text in enumerate(found(table, "calls", call_id)["log"])
    ]


def handler(name: str) -> Any:
    async def handle(self: Any, stream: Any) -> None:
        request = await stream.recv_message()
        with Table() as table:
            table["requests"].append(name)
            if table.get("unauthenticated"):
                raise GRPCError(Status.UNAUTHENTICATED, "Token ID is malformed")
            answer = getattr(Answers(), name, None)
            if answer is None:
                raise GRPCError(Status.UNIMPLEMENTED, f"the table has no {name}")
            message = answer(table, request)
        await stream.send_message(message)
        if name == "AppGetLogs":
            await asyncio.sleep(0.3)

    return handle


NAMES = api_grpc.ModalClientBase.__abstractmethods__
Service = type("Service", (api_grpc.ModalClientBase,), {name: handler(name) for name in NAMES})


async def main() -> None:
    threading.Thread(target=FILES.serve_forever, daemon=True).start()
    server = Server([Service()])
    await server.start("127.0.0.1", 0)
    port = server._server.sockets[0].getsockname()[1]
    (FOLDER / "port.new").write_text(str(port))
    os.replace(FOLDER / "port.new", FOLDER / "port")
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()


def answers(request: Any) -> Any:
    """As a program of isolated.py."""
    asyncio.run(main())
    yield None


if __name__ == "__main__":
    asyncio.run(main())

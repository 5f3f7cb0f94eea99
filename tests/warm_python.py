"""A Python whose children have torch, timm and the package imported: `-c CODE`, `-m MODULE` or a file, and its words.

Importing takes ten seconds of a child process; here one process does it and forks each child. What a test starts is a
small client: it hands its folder, environment and open files over, passes signals on, and ends as the child does.
"""

import json
import os
import runpy
import select
import signal
import socket
import sys
import threading


def serve(place, executable):
    """Fork a child for every client until the input ends, which it does with the tests."""
    import timm  # noqa: F401
    import torch.distributed.fsdp
    import torch.distributed.launcher.api

    sys.executable = executable  # children of children too, but not what multiprocessing has noted by now

    torch.set_num_threads(1)  # threads do not survive a fork
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that attend
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(place)
        door.listen()
        print("ready", flush=True)
        while sys.stdin not in select.select([door, sys.stdin], [], [])[0]:
            client, _ = door.accept()
            if os.fork() == 0:
                return attend(client)
            client.close()
    os._exit(0)


def attend(client):
    """Fork the child; tell the client its number and, at its end, its exit code. In the child, give what to run."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, files, _, _ = socket.recv_fds(client, 1, 3)
    words, folder, environment = json.loads(client.makefile().readline())
    if pid := os.fork():
        client.sendall(b"%d\n" % pid)
        ended = threading.Event()
        end = lambda: client.recv(1) or ended.is_set() or os.kill(pid, signal.SIGKILL)  # noqa: E731
        threading.Thread(target=end, daemon=True).start()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        ended.set()
        client.sendall(b"%d\n" % code)
        os._exit(0)
    client.close()
    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    return words


def run(words):
    """Do what `python WORDS` does."""
    if words[0] == "-u":
        sys.stdout.reconfigure(write_through=True)
        words = words[1:]
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:1] = [os.path.dirname(words[0]) if words[0][0] != "-" else "", *filter(None, paths)]
    sys.argv = words if words[0][0] != "-" else [words[0], *words[2:]]
    if words[0] == "-c":
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    elif words[0] == "-m":
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(words[0], run_name="__main__")


def ask(place, words):
    """Have them run in a child; end as it does."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(place)
        socket.send_fds(server, [b"."], [0, 1, 2])
        server.sendall(json.dumps([words, os.getcwd(), dict(os.environ)]).encode() + b"\n")
        answers = server.makefile()
        pid = int(answers.readline())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, lambda number, _: os.kill(pid, number))
        code = int(answers.readline())
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    place, executable, *words = sys.argv[1:]
    if words:
        ask(place, words)
    else:
        run(serve(place, executable))

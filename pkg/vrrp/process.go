package vrrp

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// maxComm is how much of a command's name the kernel keeps (TASK_COMM_LEN,
// less the zero).
const maxComm = 15

// countProcesses counts the processes that run a command, up to enough: by
// its name, or by the path that it was started by. Zombies do not count.
func countProcesses(name string, enough int) (int, error) {
	list, err := os.ReadDir("/proc")
	if err != nil {
		return 0, fmt.Errorf("processes: %w", err)
	}
	n := 0
	for _, e := range list {
		if c := e.Name()[0]; c < '0' || c > '9' {
			continue
		}
		if runs(filepath.Join("/proc", e.Name()), name) {
			if n++; n >= enough {
				break
			}
		}
	}
	return n, nil
}

// runs reports whether a process, by its directory in /proc, runs a command.
// One that ends meanwhile does not.
func runs(dir, name string) bool {
	cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil || len(cmdline) == 0 { // of the kernel, or a zombie
		return false
	}
	argv0, _, _ := bytes.Cut(cmdline, []byte{0})
	if strings.HasPrefix(name, "/") {
		return string(argv0) == name
	}
	comm, err := os.ReadFile(filepath.Join(dir, "comm"))
	if err != nil {
		return false
	}
	return strings.TrimSuffix(string(comm), "\n") == name[:min(len(name), maxComm)] || filepath.Base(string(argv0)) == name
}

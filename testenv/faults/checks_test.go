package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// writeProgram writes a program that checks may run, in a directory where anybody
// may write.
func writeProgram(t *testing.T, h *testenv.Host, text string) (path, dir string) {
	t.Helper()
	dir = filepath.Join(h.Dir(), "program")
	must(t, os.MkdirAll(dir, 0o755))
	must(t, os.MkdirAll(filepath.Join(dir, "out"), 0o755))
	must(t, os.Chmod(filepath.Join(dir, "out"), 0o777))
	path = filepath.Join(dir, "check")
	must(t, os.WriteFile(path, []byte("#!/bin/sh\ncd "+dir+"/out || exit 9\n"+text), 0o755))
	return path, filepath.Join(dir, "out")
}

// A real that serves goes by fall, also where a reload gives it its first
// check, or one of another type or port: bad answers fewer than fall cost
// nothing.
func TestFault08NewCheckOfALiveReal(t *testing.T) {
	t.Parallel() // it waits most of its time
	const times = "interval: 200ms, timeout: 5s, fall: 1000, rise: 1"
	for name, before := range map[string]string{
		"first check":  "",
		"another type": "check: {type: tcp, " + times + "}",
		"another port": "check: {type: exec, argv: [PROGRAM], port: 80, " + times + "}",
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, testenv.Shape{Directors: 1})
			path, out := writeProgram(t, r.Cluster.Host("d1"), "echo >>$LVX_REAL.$LVX_PORT\nexec test $LVX_PORT = 80\n")
			must(t, r.Direct(t.Context(), "d1", service(strings.Replace(before, "PROGRAM", path, 1))))
			realsUp(t, r, "r1", "r2")
			conn, err := r.Hold("r1")
			must(t, err)
			defer conn.Close()
			must(t, r.Direct(t.Context(), "d1", service("check: {type: exec, argv: ["+path+"], port: 81, "+times+"}")))
			eventually(t, func() error { // three bad answers
				for _, real := range []string{"172.25.0.12", "172.25.0.13"} {
					if asked, err := os.ReadFile(filepath.Join(out, real+".81")); len(asked) < 3 {
						return fmt.Errorf("%s was asked %d times: %w", real, len(asked), err)
					}
				}
				return nil
			})
			if name, err := rig.Ask(conn); name != "r1" || err != nil {
				t.Errorf("the connection is answered by %q, %v", name, err)
			}
			bothServe(t, r, "after bad answers fewer than fall")
			if log := r.Daemons["d1"].Output(); strings.Contains(log, " down: ") {
				t.Errorf("bad answers fewer than fall count:\n%s", log)
			}
		})
	}
}

// Programs find in their environment what the documents say: checks the real,
// its port and the VIP; hooks and notify what has changed.
func TestFault09VariablesOfPrograms(t *testing.T) {
	t.Parallel() // it waits most of its time
	r := newRig(t, testenv.Shape{Directors: 1})
	d1 := r.Cluster.Host("d1")
	check, out := writeProgram(t, d1, "env >$LVX_REAL.new && mv $LVX_REAL.new $LVX_REAL\nexec test ! -e down\n")
	event := filepath.Join(d1.Dir(), "program", "event")
	must(t, os.WriteFile(event, []byte("#!/bin/sh\nenv >>"+out+"/$1\n"), 0o755))
	body := service(fmt.Sprintf(`hooks: {real_down: [%[1]s, hook], quorum_down: [%[1]s, quorum]}
    check: {type: exec, argv: [%[2]s], env: {ATTEMPTS: 2}, interval: 200ms, timeout: 5s, fall: 1, rise: 1}`, event, check)) +
		"notify: {exec: [" + event + " notify]}\n"
	must(t, r.Direct(t.Context(), "d1", body))
	realsUp(t, r, "r1", "r2")
	finds := func(file string, wanted ...string) {
		t.Helper()
		eventually(t, func() error {
			text, err := os.ReadFile(filepath.Join(out, file))
			if err != nil {
				return err
			}
			for _, w := range wanted {
				if !strings.Contains("\n"+string(text), "\n"+w) {
					return fmt.Errorf("%s: no %s in\n%s", file, w, text)
				}
			}
			return nil
		})
	}
	finds("172.25.0.12", "LVX_REAL=172.25.0.12\n", "LVX_PORT=80\n", "LVX_VIP="+rig.VIP+"\n", "ATTEMPTS=2\n")
	finds("172.25.0.13", "LVX_REAL=172.25.0.13\n", "LVX_PORT=80\n", "LVX_VIP="+rig.VIP+"\n", "ATTEMPTS=2\n")
	must(t, os.WriteFile(filepath.Join(out, "down"), nil, 0o644))
	event0 := []string{"LVX_KIND=real\n", "LVX_SERVICE=web\n", "LVX_REAL=172.25.0.1", "LVX_OLD=up\n", "LVX_NEW=down\n", "LVX_REASON=", "LVX_TIME=2", "LVX_HOST=", "LVX_CHANGES=", "LVX_TEXT=", "LVX_NAME="}
	finds("hook", event0...)
	finds("quorum", "LVX_SERVICE=web\n", "LVX_NEW=down\n")
	finds("notify", event0...)
}

package faults

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// Whatever the doctor meets, it examines what it can, ends, says in a line each
// what is odd, and never that nothing is wrong.
func TestFault19DoctorOfOddDaemons(t *testing.T) {
	t.Parallel() // it waits most of its time
	r := newRig(t, testenv.Shape{Directors: 1})
	d1 := r.Cluster.Host("d1")
	file, err := r.Config("d1", service(""))
	must(t, err)
	const head = "HTTP/1.1 200 OK\r\n\r\n"
	var all sync.WaitGroup
	for name, answer := range map[string]string{
		"nothing": "", "garbage": "\x00\x1b[31m\n", "no JSON": head + "<html>", "another shape": head + `{"services": 7}`,
		"empty": head + "{}", "half": head + `{"version": "1`, "refusal": "HTTP/1.1 500 \x1b[31m\r\n\r\n",
		"an error with control characters": "HTTP/1.1 500 x\r\n\r\n" + `{"error": "\u001b[31m\nred"}`,
	} {
		socket := filepath.Join(d1.Dir(), fmt.Sprintf("odd%x.sock", name))
		l, err := net.Listen("unix", socket)
		must(t, err)
		go answerAll(l, answer)
		all.Go(func() {
			defer l.Close()
			out, err := d1.Run(t.Context(), lvx, "doctor", "--socket", socket, "-c", file)
			if err == nil || !strings.Contains(err.Error(), "exit status 1") || !strings.Contains(out, "wrong  daemon: ") || strings.ContainsAny(out, "\x1b\x00") {
				t.Errorf("%s: %v\n%q", name, err, out)
			}
		})
	}
	all.Wait()
}

// answerAll answers each connection with the same.
func answerAll(l net.Listener, answer string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = c.Read(make([]byte, 4096))
		_, _ = c.Write([]byte(answer))
		_ = c.Close()
	}
}

// What is around the doctor may be missing or broken: a daemon's notes, its pins,
// every tool of the host, interfaces. None of it is needed to examine the rest.
func TestFault02DoctorOfABrokenHost(t *testing.T) {
	t.Parallel() // it waits most of its time
	r := newRig(t, testenv.Shape{Directors: 1})
	d1 := r.Cluster.Host("d1")
	must(t, r.Direct(t.Context(), "d1", service("")))
	realsUp(t, r, "r1", "r2")
	file := filepath.Join(d1.Dir(), "lvx.yaml")
	garbage := []byte("\x00{\x1b[31m")
	for _, name := range []string{"overrides.json", "history.json", "runtime.json"} {
		must(t, os.WriteFile(filepath.Join(d1.Dir(), name), garbage, 0o600))
	}
	doctor := func(config string, says ...string) {
		t.Helper()
		// Without a PATH there are no tools.
		out, err := d1.Run(t.Context(), "env", "-i", lvx, "doctor", "--socket", r.Socket("d1"), "-c", config)
		for _, text := range says {
			if !strings.Contains(out+errText(err), text) {
				t.Errorf("lvx doctor does not say %q: %v\n%s", text, err, out)
			}
		}
		if strings.Contains(out, "\x1b") || strings.Contains(out, "panic") {
			t.Errorf("lvx doctor: %q", out)
		}
	}
	doctor(file, "nothing is wrong")
	// A daemon that is not there any more, and pins that are none.
	r.Daemons["d1"].Kill()
	delete(r.Daemons, "d1")
	doctor(file, "wrong  VIP "+rig.VIP)
	other := filepath.Join(d1.Dir(), "other.yaml")
	must(t, os.WriteFile(other, text(t, file), 0o600))
	pins := filepath.Join(d1.Dir(), "pins")
	must(t, os.Mkdir(pins, 0o700))
	for _, name := range []string{"settings", "flows", "link_eth0"} {
		must(t, os.WriteFile(filepath.Join(pins, name), garbage, 0o600))
	}
	replaceIn(t, other, "pin_dir: "+d1.PinDir(), "pin_dir: "+pins)
	replaceIn(t, other, "interface: eth0", "interfaces: [eth0, gone0]")
	doctor(other, "wrong  VIP "+rig.VIP, "gone0")
	for _, line := range []string{"list -c " + other, "status -c " + other, "check -c " + other, "list"} {
		out, err := d1.Run(t.Context(), append([]string{lvx}, strings.Fields(line)...)...)
		if strings.Contains(out+errText(err), "panic") || err == nil && strings.HasPrefix(line, "check") {
			t.Errorf("lvx %s: %v\n%s", line, err, out)
		}
	}
	commands(t, d1, lvx+" purge -c "+file)
}

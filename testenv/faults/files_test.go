package faults

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// In a state_dir where others can write, links that they plant are not followed;
// from a file that others can write no program is run, and that is said.
func TestFault27PlacesOfOthers(t *testing.T) {
	t.Parallel() // it waits most of its time
	r := newRig(t, testenv.Shape{Directors: 1})
	d1 := r.Cluster.Host("d1")
	notes, victim := filepath.Join(d1.Dir(), "notes"), filepath.Join(d1.Dir(), "victim")
	must(t, os.Mkdir(notes, 0o755))
	must(t, os.Chmod(notes, 0o777))
	must(t, os.WriteFile(victim, []byte("precious"), 0o600))
	for _, name := range []string{"vips.json", "routers.json", "overrides.json", "memory.json", "silent.json", "runtime.json", "maintenance.json", "history.json"} {
		must(t, os.Symlink(victim, filepath.Join(notes, name)))
		must(t, os.Symlink(victim, filepath.Join(notes, name+".new")))
	}
	mark := filepath.Join(d1.Dir(), "ran")
	run := filepath.Join(d1.Dir(), "run")
	must(t, os.WriteFile(run, []byte("#!/bin/sh\ntouch "+mark+"\n"), 0o755))
	file, err := r.Config("d1", checked("type: tcp")+"notify: {exec: ["+run+"]}\n")
	must(t, err)
	replaceIn(t, file, "state_dir: "+d1.Dir(), "state_dir: "+notes)
	must(t, os.Chmod(file, 0o666))
	must(t, r.Start(t.Context(), "d1"))
	realsUp(t, r, "r1", "r2")
	_, err = r.LVX(t.Context(), "d1", "weight", "web", "172.25.0.12", "3")
	must(t, err)
	_, err = d1.Run(t.Context(), "env", "LVX_SOCKET="+r.Socket("d1"), lvx, "ipvsadm", "-A", "-t", "172.25.0.101:80")
	must(t, err)
	must(t, r.Webs["r1"].Close())
	says(t, r, "status", "172.25.0.12", "refused")
	says(t, r, "status", "writable by others")
	must(t, r.Leave("d1"))
	if text, err := os.ReadFile(victim); err != nil || string(text) != "precious" {
		t.Errorf("a planted link was followed: %q, %v", text, err)
	}
	if st, err := os.Lstat(filepath.Join(notes, "overrides.json")); err != nil || !st.Mode().IsRegular() {
		t.Errorf("overrides were not stored beside the links: %v, %v", st, err)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("a program was run from a file that others can write")
	}
}

// frozen is a directory on a file system of its own that a test can freeze: then
// who writes to it hangs.
func frozen(t *testing.T, r *rig.Rig) (dir string, freeze func(bool)) {
	t.Helper()
	base := r.Cluster.Host("d1").Dir()
	image := filepath.Join(base, "image")
	dir = filepath.Join(base, "disk")
	must(t, os.Mkdir(dir, 0o755))
	for _, line := range []string{"truncate -s 16M " + image, "mkfs.ext4 -q -F " + image, "mount -o loop " + image + " " + dir} {
		argv := strings.Fields(line)
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
	}
	is := false
	freeze = func(wanted bool) {
		t.Helper()
		if is == wanted {
			return
		}
		is = wanted
		f, err := os.Open(dir)
		must(t, err)
		defer f.Close()
		const freezeRequest, thawRequest = 0xc0045877, 0xc0045878 // FIFREEZE, FITHAW of linux/fs.h
		request := map[bool]uint{true: freezeRequest, false: thawRequest}[wanted]
		must(t, unix.IoctlSetInt(int(f.Fd()), request, 0))
	}
	t.Cleanup(func() {
		freeze(false)
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir, freeze
}

// A disk that hangs under the notes is a warning, and stands between nothing and
// its effect: verdicts of checks, commands of the operator, reloads, status, a
// role of VRRP.
func TestFault03DiskThatHangs(t *testing.T) {
	t.Parallel() // it waits most of its time
	r := newRig(t, testenv.Shape{Directors: 1})
	d1 := r.Cluster.Host("d1")
	notes, freeze := frozen(t, r)
	router := "vrrp:\n  - {name: VI_1, interface: eth0, virtual_router_id: 51, priority: 100, advert_interval: 100ms, version: 3, addresses: [172.25.0.101/24], track_interfaces: [veth7]}\n"
	run(t, d1, "ip", "link", "add", "veth7", "type", "veth", "peer", "name", "veth8")
	commands(t, d1, "ip link set veth7 up", "ip link set veth8 up")
	file, err := r.Config("d1", checked("type: tcp")+router)
	must(t, err)
	replaceIn(t, file, "state_dir: "+d1.Dir(), "state_dir: "+notes)
	must(t, r.Start(t.Context(), "d1"))
	realsUp(t, r, "r1", "r2")
	says(t, r, "status", "VI_1  MASTER")

	freeze(true)
	out, err := r.LVX(t.Context(), "d1", "weight", "web", "172.25.0.12", "0")
	must(t, err)
	t.Logf("weight says: %s", out)
	realsUp(t, r, "r2")
	_, err = r.LVX(t.Context(), "d1", "weight", "web", "172.25.0.12", "--clear")
	must(t, err)
	must(t, r.Webs["r1"].Close())
	says(t, r, "status", "172.25.0.12", "refused")
	realsUp(t, r, "r2")
	_, err = r.Cluster.Host("r1").ServeWeb(":80")
	must(t, err)
	realsUp(t, r, "r1", "r2")
	commands(t, d1, "ip link set veth7 down")
	says(t, r, "status", "VI_1  FAULT")
	commands(t, d1, "ip link set veth7 up")
	says(t, r, "status", "VI_1  MASTER")
	_, err = r.LVX(t.Context(), "d1", "reload")
	must(t, err)
	typed := lvx + " ipvsadm -A -t 172.25.0.102:80 2>&1"
	if out, err := d1.Run(t.Context(), "env", "LVX_SOCKET="+r.Socket("d1"), "sh", "-c", typed); err != nil || !strings.Contains(out, "in force, but not stored: it will not survive a restart") {
		t.Errorf("ipvsadm: %v\n%s", err, out)
	}
	says(t, r, "status", "not stored")
	freeze(false) // no process can end while a thread of it hangs in the kernel
	must(t, r.Leave("d1"))
	must(t, r.Start(t.Context(), "d1"))
	realsUp(t, r, "r1", "r2")
}

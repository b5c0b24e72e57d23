package packaging_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// capabilities is what the Containerfile says that the director needs.
func capabilities(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("Containerfile")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "--cap-add ")
	if !found {
		t.Fatal("the Containerfile names no capabilities")
	}
	list, _, _ := strings.Cut(rest, "\n")
	return list
}

// A director in a container, on a network namespace of its own and with the
// documented capabilities only, attaches its program and answers.
func TestImage(t *testing.T) {
	images := built(t, "image", ".tar")
	if len(images) != 1 {
		t.Fatalf("built %q, want one image", images)
	}
	dir := t.TempDir()
	podman := func(args ...string) []string {
		return append([]string{
			"--runtime", "/usr/sbin/runc", "--cgroup-manager", "cgroupfs", "--storage-driver", "vfs",
			"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"),
		}, args...)
	}
	loaded := run(t, "podman", podman("load", "-q", "-i", images[0])...)
	id := strings.TrimSpace(loaded[strings.LastIndex(loaded, ":")+1:])

	netns := fmt.Sprintf("lvx-image-%d", os.Getpid())
	run(t, "ip", "netns", "add", netns)
	t.Cleanup(func() { run(t, "ip", "netns", "del", netns) })
	in := func(args ...string) { run(t, "ip", append([]string{"-n", netns}, args...)...) }
	in("link", "add", "eth0", "type", "veth", "peer", "name", "switch")
	in("link", "set", "switch", "up")
	in("link", "set", "eth0", "up")
	in("addr", "add", "192.168.1.10/24", "dev", "eth0")
	bpffs := filepath.Join(dir, "bpf")
	for _, d := range []string{bpffs, filepath.Join(dir, "sock"), filepath.Join(dir, "etc"), filepath.Join(dir, "state")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "mount", "-t", "bpf", "none", bpffs)
	t.Cleanup(func() { run(t, "umount", bpffs) })
	example, err := os.ReadFile("../docs/examples/quickstart.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "etc", "lvx.yaml"), example, 0o600); err != nil {
		t.Fatal(err)
	}
	open := "20000" // what the least generous of hosts lets a container have
	container := func(name string, args ...string) []string {
		return podman(append([]string{
			"run", "--rm", "--name", name, "--network", "ns:/run/netns/" + netns, "--ulimit", "nofile=" + open + ":" + open, "--ulimit", "nproc=1000:1000",
			"--cap-drop", "ALL", "--cap-add", capabilities(t), "-v", bpffs + ":/sys/fs/bpf",
			"-v", filepath.Join(dir, "sock") + ":/run/lvx", "-v", filepath.Join(dir, "etc") + ":/etc/lvx:ro", "-v", filepath.Join(dir, "state") + ":/var/lib/lvx", id,
		}, args...)...)
	}
	if got := run(t, "podman", container("check", "check")...); !strings.Contains(got, "xdp, ") {
		t.Errorf("lvx check in the container:\n%s", got)
	}

	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	director := exec.CommandContext(ctx, "podman", container("director", "run")...)
	var log strings.Builder
	director.Stdout, director.Stderr = &log, &log
	if err := director.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- director.Wait() }()
	defer func() {
		_ = exec.Command("podman", podman("stop", "-t", "20", "director")...).Run()
		<-ended
	}()
	for {
		out, err := exec.CommandContext(ctx, "podman", podman("exec", "director", "/usr/bin/lvx", "list", "-n")...).CombinedOutput()
		if err == nil && strings.Contains(string(out), "TCP  192.168.1.100:80 wrr") {
			break
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the director in the container has ended: %v\n%s", err, log.String())
		case <-ctx.Done():
			t.Fatalf("no answer from the director in the container: %s\n%s", out, log.String())
		case <-time.After(100 * time.Millisecond):
		}
	}
	if links := run(t, "ip", "-n", netns, "link", "show", "eth0"); !strings.Contains(links, "xdp") {
		t.Errorf("no program on the interface:\n%s", links)
	}
}

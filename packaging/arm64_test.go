package packaging_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestPacketPathIsRefusedOnArm64 runs the arm64 binary in an emulator: `lvx
// run` and `lvx check` refuse the packet path in one line, `lvx real` works.
func TestPacketPathIsRefusedOnArm64(t *testing.T) {
	dir := t.TempDir()
	lvx, file := filepath.Join(dir, "lvx"), filepath.Join(dir, "lvx.yaml")
	build := exec.Command("go", "build", "-trimpath", "-o", lvx, "./cmd/lvx") // compiled as for the packages
	build.Dir = ".."
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=arm64")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	text := "backend: xdp\ninterfaces: [lo]\nstate_dir: " + dir + "/state\npin_dir: /sys/fs/bpf/lvx-arm64-test\nadmin:\n  socket: " + dir + "/socket\n" +
		"services:\n  - name: web\n    listen: 10.0.0.100:80/tcp\n    reals:\n      - address: 10.0.0.11\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	const refused = "lvx: the packet path needs the memory order of amd64, and this is arm64 (set backend: ipvs, or run lvx on amd64)\n"
	for _, verb := range []string{"run", "check"} {
		cmd := exec.Command("qemu-aarch64", lvx, verb, "-c", file)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		if err := cmd.Run(); err == nil || stderr.String() != refused {
			t.Errorf("lvx %s: %v, it says\n%s want\n%s", verb, err, stderr.String(), refused)
		}
	}
	out, err := exec.Command("qemu-aarch64", lvx, "real", "status", "--vip", "203.0.113.77").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "not ready to serve 203.0.113.77") {
		t.Errorf("lvx real status: %v, it says\n%s", err, out)
	}
}

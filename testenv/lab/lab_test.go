package lab

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/tb"
)

// script runs one of the scripts on a host with its own settings.
func script(t *testing.T, h *testenv.Host, name string, settings ...string) string {
	t.Helper()
	path, err := filepath.Abs(name)
	if err != nil {
		t.Fatal(err)
	}
	argv := append([]string{"env", "LAB_NAME=" + h.Name, "LAB_INIT=none", "LAB_ETC=" + h.Dir(), "LAB_RUN=" + filepath.Join(h.Dir(), "run")}, settings...)
	out, err := h.Run(t.Context(), append(argv, "sh", path)...)
	if err != nil {
		t.Fatalf("%s on %s: %v\n%s", name, h.Name, err, out)
	}
	t.Logf("%s on %s:\n%s", name, h.Name, out)
	return out
}

// build makes the binary as the lab does.
func build(t *testing.T) string {
	t.Helper()
	lvx := filepath.Join(t.TempDir(), "bin", "lvx")
	cmd := exec.Command("sh", "build.sh")
	cmd.Env = append(os.Environ(), "LAB_LVX="+lvx, "LAB_IFACE=lo")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build.sh: %v\n%s", err, out)
	}
	return lvx
}

// director gives the settings of a director that shares the machine.
func director(h *testenv.Host, lvx string) []string {
	socket := filepath.Join(h.Dir(), "lvx.sock")
	return []string{
		"LAB_LVX=" + lvx,
		"LAB_ASK=--socket " + socket,
		fmt.Sprintf("LAB_EXTRA=admin: {socket: %s}\nstate_dir: %s\npin_dir: %s", socket, filepath.Join(h.Dir(), "state"), h.PinDir()),
	}
}

// The way of the Vagrantfile, machine by machine.
func TestScripts(t *testing.T) {
	lvx := build(t)
	c := tb.Standard(t, testenv.Shape{})
	for _, real := range []string{"r1", "r2"} {
		out := script(t, c.Host(real), "real.sh", "LAB_LVX="+lvx)
		for _, part := range []string{"172.25.0.100: put on lo\n", "ready to serve 172.25.0.100\n", "\n" + real + "\n"} {
			if !strings.Contains(out, part) {
				t.Errorf("real.sh on %s: output lacks %q", real, part)
			}
		}
	}
	d1, client := c.Host("d1"), c.Host("client")
	out := script(t, d1, "director.sh", director(d1, lvx)...)
	for _, part := range []string{"TCP  172.25.0.100:80 wrr\n", "  -> 172.25.0.12:80               Route   1 ", "  -> 172.25.0.13:80               Route   2 "} {
		if !strings.Contains(out, part) {
			t.Errorf("director.sh: output lacks %q", part)
		}
	}
	out = script(t, client, "client.sh")
	for _, count := range []string{`(?m)^ +4 r1$`, `(?m)^ +8 r2$`} {
		if !regexp.MustCompile(count).MatchString(out) {
			t.Errorf("client.sh: want weights 1:2 to give 4 and 8 of 12, %s", count)
		}
	}
}

// Two directors, as in the Vagrantfile: the second takes over.
func TestTakeover(t *testing.T) {
	lvx := build(t)
	c := tb.Standard(t, testenv.Shape{})
	for _, real := range []string{"r1", "r2"} {
		script(t, c.Host(real), "real.sh", "LAB_LVX="+lvx)
	}
	for name, priority := range map[string]string{"d1": "150", "d2": "100"} {
		h := c.Host(name)
		script(t, h, "director.sh", append(director(h, lvx), "LAB_PRIORITY="+priority)...)
	}
	script(t, c.Host("client"), "client.sh")
	if err := c.Switch().SetLink("d1", false); err != nil {
		t.Fatal(err)
	}
	script(t, c.Host("client"), "client.sh")
}

func TestScriptsSayWhatIsMissing(t *testing.T) {
	c := tb.New(t, testenv.Options{Hosts: []testenv.HostSpec{{Name: "h"}}})
	for _, name := range []string{"real.sh", "director.sh", "client.sh"} {
		path, err := filepath.Abs(name)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Host("h").Run(t.Context(), "env", "LAB_NAME=h", "sh", path)
		if err == nil || !strings.Contains(err.Error(), "lab: h: no interface with an address in 172.25.0.0/24") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVagrantfile(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	for _, argv := range [][]string{
		{"scripts/need", "ruby", "vagrant"},
		{"ruby", "-c", "Vagrantfile"},
		{"vagrant", "validate", "--ignore-provider"},
	} {
		cmd := exec.Command(argv[0], argv[1:]...)
		if strings.Contains(argv[0], "/") {
			cmd.Path = filepath.Join(root, argv[0])
		}
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "VAGRANT_HOME="+home, "VAGRANT_DOTFILE_PATH="+filepath.Join(home, "machines"), "VAGRANT_CHECKPOINT_DISABLE=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", argv, err, out)
		}
	}
	if _, err := os.Stat(filepath.Join(root, ".vagrant")); err == nil {
		t.Error("validation left .vagrant in the checkout")
	}
}

// The Vagrantfile, the scripts and the standard network agree on addresses.
func TestVagrantfileIsTheStandardNetwork(t *testing.T) {
	file, err := os.ReadFile("../../Vagrantfile")
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range testenv.Standard(testenv.Shape{}).Hosts {
		want := fmt.Sprintf(`"%s"`, h.NICs[0].Addrs[0].Addr())
		line := regexp.MustCompile(`(?m)^ *"` + h.Name + `" .*$`).Find(file)
		if !bytes.Contains(line, []byte(want)) {
			t.Errorf("%s: %q, want %s", h.Name, line, want)
		}
	}
	lib, err := os.ReadFile("lib.sh")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(lib, []byte("LAB_VIP:="+testenv.VIP.String()+"}")) {
		t.Error("lib.sh has another VIP")
	}
}

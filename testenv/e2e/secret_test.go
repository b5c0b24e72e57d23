package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/testenv"
)

// secretPair is a configuration with a password, and secretConf is what
// keepalived has for it.
const (
	secretPair = "services: []\nvrrp:\n  - {name: VI_1, virtual_router_id: 7, auth_pass: hunter2x, addresses: [172.25.0.101/32]}\n"
	secretConf = "vrrp_instance VI_1 {\n interface eth0\n virtual_router_id 7\n authentication {\n auth_type PASS\n auth_pass hunter2x\n }\n virtual_ipaddress { 172.25.0.101 }\n}\n"
)

// No password is in what lvx says, prints or keeps; a configuration that it
// writes is the operator's alone.
func TestNoSecretIsShown(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", secretPair))
	d1 := r.Cluster.Host("d1")
	file := filepath.Join(d1.Dir(), "lvx.yaml")
	longer := filepath.Join(d1.Dir(), "longer.yaml")
	keepalived := filepath.Join(d1.Dir(), "keepalived.conf")
	must(t, os.WriteFile(longer, []byte("interface: eth0\n"+strings.ReplaceAll(secretPair, "hunter2x", "hunter2x-too-long")), 0o600))
	must(t, os.WriteFile(keepalived, []byte(secretConf), 0o600))
	shown := map[string]string{}
	for _, args := range [][]string{
		{"check", "-c", file}, {"check", "-c", longer}, {"check", "-c", keepalived}, {"import", keepalived, "-o", file + ".imported"},
		{"diff", "-c", longer}, {"diff", "-c", file}, {"status"}, {"status", "--json"}, {"history"}, {"history", "--json"}, {"metrics"}, {"list", "-n"},
		{"doctor"}, {"explain", "tcp", "172.25.0.50:1", "172.25.0.101:80"}, {"export", "-o", file + ".exported"},
	} {
		argv := append([]string{lvx}, args...)
		if !strings.Contains("check import doctor", args[0]) {
			argv = append(argv, "--socket", r.Socket("d1"))
		}
		out, err := d1.Run(t.Context(), append([]string{"sh", "-c", `exec "$@" 2>&1`, "sh"}, argv...)...)
		shown["lvx "+strings.Join(args, " ")] = out
		if err != nil {
			shown["lvx "+strings.Join(args, " ")+", error"] = err.Error()
		}
	}
	must(t, os.WriteFile(file, []byte(strings.ReplaceAll(mustRead(t, file), "hunter2x", "hunter2x-too-long")), 0o600))
	if _, err := r.LVX(t.Context(), "d1", "reload"); err == nil || !strings.Contains(err.Error(), "auth_pass") {
		t.Errorf("a password that is too long: %v", err)
	} else {
		shown["lvx reload"] = err.Error()
	}
	shown["the log"] = r.Daemons["d1"].Output()
	notes, err := filepath.Glob(filepath.Join(d1.Dir(), "*.json*"))
	must(t, err)
	for _, note := range notes {
		shown[note] = mustRead(t, note)
	}
	for what, text := range shown {
		if strings.Contains(text, "hunter2") {
			t.Errorf("%s shows a password:\n%s", what, text)
		}
	}
	if len(shown["lvx status"]) == 0 || len(shown["the log"]) == 0 {
		t.Errorf("nothing to look at: %v", shown)
	}
	for _, name := range []string{file + ".exported", file + ".imported"} {
		info, err := os.Stat(name)
		must(t, err)
		if text := mustRead(t, name); info.Mode().Perm() != 0o600 || !strings.Contains(text, "hunter2x") {
			t.Errorf("%s: mode %v, and holds\n%s", name, info.Mode(), text)
		}
	}
	out, err := d1.Run(t.Context(), "sh", "-c", lvx+" export --socket "+r.Socket("d1")+" 2>&1 >/dev/null")
	if err != nil || !strings.Contains(out, "holds passwords") {
		t.Errorf("lvx export to stdout says %q, %v", out, err)
	}
}

func mustRead(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	must(t, err)
	return string(b)
}

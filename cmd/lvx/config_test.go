package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/tb"
)

// What config init writes is for this host, and valid as it is; what it has in
// comments is valid, too.
func TestConfigInit(t *testing.T) {
	c := tb.Standard(t, testenv.Shape{Directors: 1, Reals: 1})
	d1 := c.Host("d1")
	file := filepath.Join(d1.Dir(), "lvx.yaml")
	runIn := func(args ...string) (string, error) {
		root := newRootCmd()
		var out bytes.Buffer
		root.SetOut(&out)
		root.SetErr(&out)
		root.SetArgs(args)
		err := d1.Do(root.Execute)
		return out.String(), err
	}
	out, err := runIn("config", "init", "-o", file)
	if err != nil || !strings.Contains(out, "lvx check -c "+file) {
		t.Fatalf("%v: %s", err, out)
	}
	cfg, err := config.Load(file)
	if err != nil || cfg.Interfaces[0] != "eth0" || cfg.Services[0].Listeners[0].Addr.String() != "172.25.0.100" || len(cfg.Warnings) > 0 {
		t.Errorf("%v: %+v", err, cfg)
	}
	if st, err := os.Stat(file); err != nil || st.Mode() != 0o600 {
		t.Errorf("mode: %v, %v", st, err)
	}
	if out, err := runIn("config", "init", "-o", file); err == nil {
		t.Errorf("a file that is there was replaced: %s", out)
	}
	out, err = runIn("config", "init")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "# The segment of the VIPs: 172.25.0.11/24") || strings.Contains(out, "<") {
		t.Errorf("a word of a comment was replaced, or a place was not filled in:\n%s", out)
	}
	var all []string
	for line := range strings.Lines(out) {
		for _, key := range []string{"# vrrp:", "#   - name", "#     ", "# notify", "# admin"} {
			if strings.HasPrefix(line, key) {
				line = line[2:]
			}
		}
		all = append(all, line)
	}
	if cfg, err := config.Parse("lvx.yaml", []byte(strings.Join(all, ""))); err != nil || len(cfg.VRRP) != 1 || cfg.Admin.Listen == "" {
		t.Errorf("with its comments: %v\n%s", err, strings.Join(all, ""))
	}
	if out, err := runIn("config", "init", "--interface", "eth9"); err == nil || !strings.Contains(err.Error(), "no such interface") {
		t.Errorf("no such interface: %v %s", err, out)
	}
}

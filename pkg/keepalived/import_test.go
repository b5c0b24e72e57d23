package keepalived_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/keepalived"
)

var update = flag.Bool("update", false, "write testdata's .yaml and .report anew")

// testFiles are files of this host.
type testFiles struct{}

func (testFiles) Glob(pattern string) ([]string, error) { return filepath.Glob(pattern) }
func (testFiles) Read(name string) ([]byte, error)      { return os.ReadFile(name) }

func fixtures(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob("testdata/*.conf")
	if err != nil || len(names) < 18 {
		t.Fatalf("fixtures: %d, %v", len(names), err)
	}
	return names
}

func account(r keepalived.Report) string {
	var out strings.Builder
	for _, f := range r {
		fmt.Fprintln(&out, f)
	}
	fmt.Fprintln(&out, r.Total())
	return out.String()
}

// Every fixture becomes the YAML and the account that were read and found
// right.
func TestFixtures(t *testing.T) {
	for _, name := range fixtures(t) {
		t.Run(filepath.Base(name), func(t *testing.T) {
			res, err := keepalived.Import(testFiles{}, name, keepalived.Options{})
			if err != nil {
				t.Fatal(err)
			}
			stem := strings.TrimSuffix(name, ".conf")
			golden(t, stem+".yaml", string(res.YAML))
			golden(t, stem+".report", account(res.Report))
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// Every line of a file that says something is in the account.
func TestEveryLineIsAccountedFor(t *testing.T) {
	included, err := filepath.Glob("testdata/12-included/*")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, name := range fixtures(t) {
		res, err := keepalived.Import(testFiles{}, name, keepalived.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range res.Report {
			seen[fmt.Sprintf("%s:%d", f.File, f.Line)] = true
		}
	}
	for _, name := range slices.Concat(fixtures(t), included) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(string(text), "\n") {
			line, _, _ = strings.Cut(line, "#")
			line = strings.TrimPrefix(line, "@^lb1")
			line = strings.Trim(line, " \t{}\\")
			if line == "" || line[0] == '!' {
				continue
			}
			if where := fmt.Sprintf("%s:%d", name, i+1); !seen[where] {
				t.Errorf("%s is not accounted for: %s", where, line)
			}
		}
	}
}

// The output is what pkg/config says it is, whatever the options.
func TestOutputIsAConfiguration(t *testing.T) {
	for _, name := range fixtures(t) {
		for _, o := range []keepalived.Options{
			{}, {ViaVIP: true, Backend: "ipvs", Interface: "lan0", ID: "lb1", MergeGroups: true},
			{Marks: map[uint32][]string{6: {"192.0.2.241:80/tcp"}, 7: {"192.0.2.7:80/tcp", "192.0.2.7:443/tcp"}, 100: {"192.0.2.7:81/tcp"}}},
		} {
			res, err := keepalived.Import(testFiles{}, name, o)
			if err != nil {
				t.Fatal(name, err)
			}
			cfg, err := config.Parse("lvx.yaml", res.YAML)
			if err != nil {
				t.Fatal(name, err)
			}
			if diff := cmp.Diff(len(res.Config.Services), len(cfg.Services)); diff != "" {
				t.Errorf("%s: services %s", name, diff)
			}
		}
	}
}

// No password, whole or in part, is in the account.
func TestNoSecretIsReported(t *testing.T) {
	res, err := keepalived.Import(testFiles{}, "testdata/18-secrets.conf", keepalived.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if text := account(res.Report); strings.Contains(text, "hunter2") {
		t.Errorf("the account shows a password:\n%s", text)
	}
	if !res.HasSecret || !strings.Contains(string(res.YAML), `auth_pass: "hunter2a"`) {
		t.Error("the output has no password")
	}
	for line := range strings.SplitSeq(string(res.YAML), "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "#") && strings.Contains(line, "hunter2") {
			t.Errorf("a comment shows a password: %s", line)
		}
	}
}

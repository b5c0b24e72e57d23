// Package docs_test keeps the documents true: every YAML block and example
// file is a configuration that lvx accepts, every link points at something.
package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/pkg/config"
)

// pages lists the documents that users read.
func pages(t *testing.T) map[string]string {
	t.Helper()
	text := map[string]string{}
	for _, pattern := range []string{"../*.md", "*.md"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			text[name] = string(b)
		}
	}
	if len(text) < 5 {
		t.Fatalf("found %d documents only", len(text))
	}
	return text
}

// load reads one configuration as the daemon would.
func load(t *testing.T, path string) {
	t.Helper()
	c, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Services) == 0 {
		t.Error("a configuration without a service")
	}
}

func TestExamplesAreAccepted(t *testing.T) {
	names, err := filepath.Glob("examples/*.yaml")
	if err != nil || len(names) < 10 {
		t.Fatalf("found %d examples: %v", len(names), err)
	}
	seeds := pages(t)["seeds.md"]
	for _, name := range names {
		t.Run(filepath.Base(name), func(t *testing.T) {
			load(t, name)
			if !strings.HasPrefix(name, "examples/quickstart") && !strings.Contains(seeds, name) {
				t.Errorf("seeds.md does not mention %s", name)
			}
		})
	}
}

var yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")

func TestYAMLBlocksAreAccepted(t *testing.T) {
	found := 0
	for name, text := range pages(t) {
		for _, block := range yamlBlock.FindAllStringSubmatch(text, -1) {
			found++
			t.Run(filepath.Base(name), func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "lvx.yaml")
				if err := os.WriteFile(path, []byte(block[1]), 0o600); err != nil {
					t.Fatal(err)
				}
				load(t, path)
			})
		}
	}
	if found == 0 {
		t.Error("no YAML blocks found")
	}
}

// The README's configuration is the quickstart example, which other tests
// run.
func TestQuickstartIsTheExample(t *testing.T) {
	example, err := os.ReadFile("examples/quickstart.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(pages(t)["../README.md"], "```yaml\n"+string(example)+"```") {
		t.Error("README.md does not contain examples/quickstart.yaml")
	}
}

var link = regexp.MustCompile(`\]\(([^)#]+)(#[^)]*)?\)`)

func TestLinksPointSomewhere(t *testing.T) {
	for name, text := range pages(t) {
		for _, l := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(l[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(name), l[1])); err != nil {
				t.Errorf("%s links to %s: %v", name, l[1], err)
			}
		}
	}
}

var mkTarget = regexp.MustCompile(`(?m)(?:^|` + "`" + `)make ([a-z-]+)`)

// Documents name only make targets that exist.
func TestMakeTargetsExist(t *testing.T) {
	makefile, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range pages(t) {
		for _, m := range mkTarget.FindAllStringSubmatch(text, -1) {
			if !strings.Contains(string(makefile), "\n"+m[1]+":") {
				t.Errorf("%s names make %s, which does not exist", name, m[1])
			}
		}
	}
}

var metricName = regexp.MustCompile(`\blvx_[a-z0-9_]+`)

// Documents name only metrics that there are, or what several names begin with:
// metrics.md, which a test makes of the metrics themselves, has them all.
func TestNamedMetricsExist(t *testing.T) {
	text := pages(t)
	all := metricName.FindAllString(text["metrics.md"], -1)
	delete(text, "../CHANGELOG.md") // it has names of the past
	for name, page := range text {
		for _, named := range metricName.FindAllString(page, -1) {
			if !slices.ContainsFunc(all, func(m string) bool { return m == named || strings.HasPrefix(m, strings.TrimSuffix(named, "_")+"_") }) {
				t.Errorf("%s names the metric %s, which does not exist", name, named)
			}
		}
	}
}

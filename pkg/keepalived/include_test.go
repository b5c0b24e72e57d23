package keepalived_test

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"testing"

	"github.com/lvx-lb/lvx/pkg/keepalived"
)

// manyFiles are files by their names.
type manyFiles map[string]string

// Glob matches every name.
func (m manyFiles) Glob(pattern string) (names []string, err error) {
	for name := range m {
		if ok, err := filepath.Match(pattern, name); ok || err != nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// Read gives the file.
func (m manyFiles) Read(name string) ([]byte, error) {
	if _, ok := m[name]; !ok {
		return nil, fs.ErrNotExist
	}
	return []byte(m[name]), nil
}

// TestIncludes: an include opens all the files that its pattern stands for, in
// their order.
func TestIncludes(t *testing.T) {
	files := manyFiles{"/d/loop.conf": "include loop.conf\n", "/d/one.conf": "include /e/100.conf\n$LAST=1\n"}
	for n := 100; n < 1200; n++ {
		files[fmt.Sprintf("/e/%d.conf", n)] = fmt.Sprintf("vrrp_script s%d {\n}\n", n)
	}
	for pattern, want := range map[string]struct{ statements, lost int }{
		"/e/*.conf":             {1100, 0},
		"/e/{100,11{1,2}}.conf": {3, 0},
		"/e/{100,111.conf":      {0, 0},
		"/e/100{.conf,}":        {1, 0},
		"/d/one.conf":           {1, 0},
		"/d/loop.conf":          {0, 1},
	} {
		files["/a.conf"] = "include " + pattern + "\nvrrp_script last {\n}\n"
		res, err := keepalived.Import(files, "/a.conf", keepalived.Options{})
		if err != nil {
			t.Fatal(err)
		}
		statements := 0
		for _, f := range res.Report {
			if f.Keyword == "vrrp_script" {
				statements++
			}
		}
		if lost := res.Report.Count(keepalived.Lost); statements != want.statements+1 || lost != want.lost {
			t.Errorf("%s: %d statements (want %d), %d lost (want %d):\n%s", pattern, statements, want.statements+1, lost, want.lost, account(res.Report))
		}
	}
}

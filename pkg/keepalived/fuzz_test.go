package keepalived_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/keepalived"
)

// oneFile is a file system with one file, which every include finds.
type oneFile []byte

func (oneFile) Glob(pattern string) ([]string, error) {
	if strings.Contains(pattern, "*") {
		return []string{"a.conf"}, nil
	}
	return nil, nil
}

func (f oneFile) Read(name string) ([]byte, error) {
	if name != "a.conf" {
		return nil, fs.ErrNotExist
	}
	return f, nil
}

func seedFiles(f *testing.F) {
	f.Helper()
	for _, pattern := range []string{"testdata/*.conf", "testdata/*/*"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, name := range names {
			if info, err := os.Stat(name); err == nil && info.IsDir() {
				continue // of testdata/fuzz: what was found before is run anyway
			}
			text, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(text)
		}
	}
	for _, s := range []string{
		"include *\n", "$A=$A\n$A\n", "$A= \\\n$A \\\n$A\n$A\n", "$A=~SEQ(X,1,3) $A\n$A\n",
		"~SEQ(N, 1, 1, 9223372036854775807) x $N", "~SEQ(N,-3) $N", "~LST({A,B},{1,2},{3})$A$B", "${_ENV X}${_RANDOM 1 2}${_PWD}",
		"@a b\n@^a c\n@", "\"unclosed { quote\nvirtual_server", "}}}{{{", "vrrp_instance { {", "!", "#", "\\#", "a\x00b\n",
		"vrrp_instance v {\ntrack_interface {\n\"\"\n}\n}",
		"virtual_server_group g { 0.0.0.0-255 1\n 2001:db8::/64 80 }\nvirtual_server group g { real_server ::1 { } }",
	} {
		f.Add([]byte(s))
	}
}

// Whatever a file holds: no crash, and the output is a configuration.
func FuzzImport(f *testing.F) {
	keepalived.LimitPieces(500)
	seedFiles(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		res, err := keepalived.Import(oneFile(text), "a.conf", keepalived.Options{})
		if err != nil {
			if !strings.Contains(err.Error(), "a.conf") {
				t.Fatalf("an error that names no file: %v", err)
			}
			return
		}
		if _, err := config.Parse("lvx.yaml", res.YAML); err != nil {
			t.Fatalf("the output is no configuration: %v\n%s", err, res.YAML)
		}
		checkFindings(t, res.Report)
	})
}

func checkFindings(t *testing.T, r keepalived.Report) {
	t.Helper()
	for _, finding := range r {
		if strings.ContainsAny(finding.String(), "\n\r\x00\x1b") || finding.Line < 1 {
			t.Fatalf("a finding of more than a line: %q", finding.String())
		}
	}
}

// FuzzRead is the reading alone, which is some times faster.
func FuzzRead(f *testing.F) {
	keepalived.LimitPieces(500)
	seedFiles(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		report, err := keepalived.Read(oneFile(text), "a.conf", keepalived.Options{})
		if err != nil {
			if !strings.Contains(err.Error(), "a.conf") {
				t.Fatalf("an error that names no file: %v", err)
			}
			return
		}
		checkFindings(t, report)
		for _, finding := range report {
			if finding.Keyword == "" && finding.Text == "" {
				t.Fatalf("line %d is not accounted for", finding.Line)
			}
		}
	})
}

// A password that stands where one belongs is in no finding, whatever is
// around it.
func FuzzSecret(f *testing.F) {
	keepalived.LimitPieces(500)
	seedFiles(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		const secret = "Zq7pX2vK"
		if bytes.Contains(text, []byte(secret)) {
			return
		}
		text = append(bytes.Clone(text), "\nauth_pass "+secret+"\nvrrp_instance V {\nauthentication {\nauth_type PASS\nauth_pass "+secret+"\n}\n}\n"...)
		res, err := keepalived.Import(oneFile(text), "a.conf", keepalived.Options{})
		if err != nil {
			return
		}
		for _, finding := range res.Report {
			if strings.Contains(finding.String(), secret) {
				t.Fatalf("a finding shows the password: %s", finding)
			}
		}
		for line := range strings.SplitSeq(string(res.YAML), "\n") {
			if strings.HasPrefix(strings.TrimSpace(line), "#") && strings.Contains(line, secret) {
				t.Fatalf("a comment shows the password: %s", line)
			}
		}
	})
}

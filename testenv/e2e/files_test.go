package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/testenv"
)

// startNginx runs an nginx on a host, and gives the directory whose files it serves
// and takes.
func startNginx(t *testing.T, h *testenv.Host, listen string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	conf := "daemon off; master_process off; pid " + dir + "/pid; error_log stderr; events {}\n" +
		"http { access_log off; client_max_body_size 0; client_body_temp_path " + dir + "/a; proxy_temp_path " + dir + "/b;" +
		" fastcgi_temp_path " + dir + "/c; uwsgi_temp_path " + dir + "/d; scgi_temp_path " + dir + "/e;" +
		" server { listen " + listen + "; root " + dir + "; dav_methods PUT; } }\n"
	file := filepath.Join(dir, "nginx.conf")
	must(t, os.WriteFile(file, []byte(conf), 0o600))
	_, err := h.Start("nginx", "-c", file, "-e", "stderr")
	must(t, err)
	return dir
}

// transferFiles has curl download so many bytes from an nginx and upload them again.
func transferFiles(t *testing.T, client *testenv.Host, folder, dir string, size int64) {
	t.Helper()
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, nil, 0o600))
	must(t, os.Truncate(file, size))
	eventually(t, func() error { // nginx has come up
		_, err := client.Run(t.Context(), "curl", "-sSfg", "-I", "-m", "5", folder+"file")
		return err
	})
	curl := func(want string, args ...string) {
		t.Helper()
		out, err := client.Run(t.Context(), append([]string{"curl", "-sSg", "-m", "150", "-o", "/dev/null"}, args...)...)
		if err != nil || out != want {
			t.Fatalf("curl %s: %q, %v; want %q", strings.Join(args, " "), out, err, want)
		}
	}
	curl(fmt.Sprintf("200 %d", size), "-w", "%{http_code} %{size_download}", folder+"file")
	curl(fmt.Sprintf("201 %d", size), "-w", "%{http_code} %{size_upload}", "-T", file, folder+"back")
	info, err := os.Stat(filepath.Join(dir, "back"))
	must(t, err)
	if info.Size() != size {
		t.Fatalf("nginx has %d bytes of %d", info.Size(), size)
	}
	must(t, os.Remove(filepath.Join(dir, "back")))
}

package admin

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/director"
)

// get asks the TCP listener of a server for st.
func get(t *testing.T, st *stub, method, path string) (int, string) {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	free.Close()
	start(t, Options{Director: st, Listen: addr})
	req, _ := http.NewRequestWithContext(t.Context(), method, "http://"+addr+path, nil)
	tr := &http.Transport{DisableKeepAlives: true}
	res, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func TestMetrics(t *testing.T) {
	code, body := get(t, newStub(), http.MethodGet, "/metrics")
	if code != http.StatusOK {
		t.Fatalf("%d %s", code, body)
	}
	for _, line := range []string{
		`lvx_up 1`,
		`lvx_info{backend="xdp",mode="native",version="1.2.3"} 1`,
		`lvx_apply_failing 0`,
		`lvx_apply_failures_total 3`,
		`lvx_reload_ok 1`,
		`lvx_service_up{service="web"} 1`,
		`lvx_service_connections_total{service="web"} 10`,
		`lvx_service_bytes_total{service="web"} 800`,
		`lvx_real_up{real="10.0.0.11",service="web"} 1`,
		`lvx_real_up{real="[2001:db8::12]:81",service="web"} 0`,
		`lvx_real_weight{real="10.0.0.11",service="web"} 3`,
		`lvx_real_active_connections{real="10.0.0.11",service="web"} 4`,
		`lvx_real_inactive_connections{real="10.0.0.11",service="web"} 5`,
		`lvx_real_templates{real="10.0.0.11",service="web"} 6`,
		`lvx_packets_total{verdict="forwarded"} 20`,
		`lvx_table_capacity{table="flows"} 1000`,
		`lvx_table_entries{table="flows"} 9`,
		`lvx_table_evicted_total{kind="half_open",table="flows"} 2`,
		`lvx_vrrp_role{instance="VI_1",role="MASTER"} 1`,
		`lvx_vrrp_role{instance="VI_1",role="BACKUP"} 0`,
		`lvx_vrrp_priority{instance="VI_1"} 100`,
		`lvx_vrrp_adverts_rejected_total{instance="VI_1",reason="auth"} 7`,
		`go_goroutines`,
		`process_open_fds`,
	} {
		if !strings.Contains(body, "\n"+line) {
			t.Errorf("no %s", line)
		}
	}
}

func TestMetricsOfADirectorThatIsStopping(t *testing.T) {
	st := newStub()
	st.err = director.ErrStopped
	code, body := get(t, st, http.MethodGet, "/metrics")
	if code != http.StatusOK || !strings.Contains(body, "\nlvx_up 0\n") || strings.Contains(body, "lvx_service") {
		t.Errorf("%d %s", code, body)
	}
}

func TestPage(t *testing.T) {
	st := newStub()
	st.status.Fault = strings.Repeat("x", 1000)
	code, body := get(t, st, http.MethodGet, "/")
	if code != http.StatusOK {
		t.Fatalf("%d %s", code, body)
	}
	for _, part := range []string{"lvx 1.2.3", "up 1m30s", "VI_1", "MASTER", "10.0.0.11", "[2001:db8::12]:81", "&lt;script&gt;"} {
		if !strings.Contains(body, part) {
			t.Errorf("no %q", part)
		}
	}
	if strings.Contains(body, "<script>") || strings.Contains(body, "\x1b") || strings.Contains(body, strings.Repeat("x", 201)) {
		t.Errorf("text from outside got through:\n%s", body)
	}
	st = newStub()
	st.err = director.ErrStopped
	if code, _ := get(t, st, http.MethodGet, "/"); code != http.StatusServiceUnavailable {
		t.Errorf("stopping: %d", code)
	}
}

func TestPublicAnswersGetOnly(t *testing.T) {
	for _, c := range []struct {
		method, path string
		code         int
	}{
		{http.MethodPost, "/", http.StatusMethodNotAllowed},
		{http.MethodPost, pathReload, http.StatusMethodNotAllowed},
		{http.MethodHead, "/metrics", http.StatusMethodNotAllowed},
		{http.MethodGet, pathReload, http.StatusNotFound},
		{http.MethodGet, pathStatus, http.StatusNotFound},
		{http.MethodGet, pathList + "?connections=0", http.StatusNotFound},
	} {
		st := newStub()
		if code, _ := get(t, st, c.method, c.path); code != c.code {
			t.Errorf("%s %s: %d", c.method, c.path, code)
		}
		if len(st.calls) != 0 {
			t.Errorf("%s %s reached the director: %q", c.method, c.path, st.calls)
		}
	}
}

// A taken address keeps nobody from the socket; once it is free it is used.
func TestListenInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := NewServer(Options{Director: newStub(), Socket: filepath.Join(t.TempDir(), "s"), Listen: l.Addr().String()})
	s.listenPause = time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	<-s.Up()
	if _, err := NewClient(s.opt.Socket).Status(t.Context()); err != nil {
		t.Errorf("socket: %v", err)
	}
	l.Close()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		resp, err := http.Get("http://" + s.opt.Listen + "/metrics")
		if err == nil {
			resp.Body.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the address is free, and not used: %v", err)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

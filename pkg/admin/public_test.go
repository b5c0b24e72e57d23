package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lvx-lb/lvx/pkg/director"
)

// freeAddr is an address that nobody listens on.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// get asks the TCP listener of a server for st.
func get(t *testing.T, st *stub, method, path string) (int, string) {
	t.Helper()
	addr := freeAddr(t)
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
		`lvx_build_info{version="1.2.3"} 1`,
		`lvx_data_path_info{backend="xdp",mode="native"} 1`,
		`lvx_start_timestamp_seconds 1.7e+09`,
		`lvx_apply_failing 0`,
		`lvx_apply_failures_total 3`,
		`lvx_last_reload_successful 1`,
		`lvx_last_reload_timestamp_seconds 1.7e+09`,
		`lvx_notifications_total{result="failed"} 2`,
		`lvx_warning{kind="file",subject="/x",text="not ?[31mstored"} 1`,
		`lvx_service_up{service="web"} 1`,
		`lvx_service_up{service="closed"} 0`,
		`lvx_service_sorry{service="closed"} 1`,
		`lvx_service_quorum{service="closed"} 0`,
		`lvx_vip_held{vip="10.0.0.100"} 1`,
		`lvx_real_check_duration_seconds{real="10.0.0.11",service="web"} 0.25`,
		`lvx_real_drained{real="10.0.0.11",service="web"} 0`,
		`lvx_vrrp_role_changes_total{vrrp="VI_1"} 4`,
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
		`lvx_vrrp_role{role="MASTER",vrrp="VI_1"} 1`,
		`lvx_vrrp_role{role="BACKUP",vrrp="VI_1"} 0`,
		`lvx_vrrp_priority{vrrp="VI_1"} 100`,
		`lvx_vrrp_adverts_rejected_total{reason="auth",vrrp="VI_1"} 7`,
		`go_goroutines`,
		`process_open_fds`,
	} {
		if !strings.Contains(body, "\n"+line) {
			t.Errorf("no %s", line)
		}
	}
}

// A director that does not answer fails the scrape: there is no metric that
// would say 1 for ever.
func TestMetricsOfADirectorThatIsStopping(t *testing.T) {
	st := newStub()
	st.err = director.ErrStopped
	if code, body := get(t, st, http.MethodGet, "/metrics"); code != http.StatusInternalServerError || !strings.Contains(body, "stopping") {
		t.Errorf("%d %s", code, body)
	}
}

// Fault 25: series for each real can be switched off.
func TestFault25NoRealMetrics(t *testing.T) {
	addr := freeAddr(t)
	socket := start(t, Options{Director: newStub(), Listen: addr, OmitRealMetrics: true})
	var b strings.Builder
	if err := NewClient(socket).Metrics(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "lvx_real_") || !strings.Contains(b.String(), "lvx_service_bytes_total") {
		t.Errorf("%s", b.String())
	}
}

// Every metric is documented, in the words that a scrape gives.
func TestMetricsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		kind := map[prometheus.ValueType]string{prometheus.GaugeValue: "gauge", prometheus.CounterValue: "counter"}[m.kind]
		if kind == "counter" != strings.HasSuffix(m.name, "_total") {
			t.Errorf("%s is a %s", m.name, kind)
		}
		row := fmt.Sprintf("| `%s` | %s | %s | %s |\n", m.name, kind, strings.Join(m.labels, ", "), m.help)
		if !strings.Contains(string(doc), row) {
			t.Errorf("docs/metrics.md lacks\n%s", row)
		}
	}
	if rows := strings.Count(string(doc), "\n| `lvx_"); rows != len(all) {
		t.Errorf("docs/metrics.md has %d metrics, there are %d", rows, len(all))
	}
}

// Alert rules and dashboard ask for nothing that is not there.
func TestExpressionsNameMetrics(t *testing.T) {
	known := map[string]bool{}
	for _, m := range all {
		known[m.name] = true
	}
	for _, file := range []string{"../../contrib/prometheus/lvx.rules.yaml", "../../contrib/grafana/lvx.json"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		names := regexp.MustCompile(`\blvx_[a-z_]+`).FindAllString(string(b), -1)
		if len(names) == 0 {
			t.Errorf("%s names no metric", file)
		}
		for _, name := range names {
			if !known[name] {
				t.Errorf("%s: there is no metric %s", file, name)
			}
		}
	}
}

// The page is one document that loads nothing; what it shows comes as events.
func TestPage(t *testing.T) {
	code, body := get(t, newStub(), http.MethodGet, "/")
	if code != http.StatusOK || !strings.Contains(body, "<title>lvx</title>") {
		t.Fatalf("%d %s", code, body)
	}
	if m := regexp.MustCompile(`(?i)\b(src|href)\s*=\s*"([^"]*)"|url\(|@import|https?://(www\.w3\.org/2000/svg)?`).FindAllString(body, -1); !slices.Equal(m, []string{`href="/metrics"`, "http://www.w3.org/2000/svg"}) {
		t.Errorf("the page refers to %q", m)
	}
	if want := "'sha256-" + hashOf(pageScript) + "'"; !strings.Contains(pagePolicy, want) || !strings.Contains(body, "<script>"+pageScript+"</script>") {
		t.Errorf("the policy %q does not allow the page's script", pagePolicy)
	}
	if strings.Contains(pageScript, "innerHTML") || strings.Contains(pageScript, "document.write") {
		t.Error("text is put in as markup")
	}
}

func TestEvents(t *testing.T) {
	st := newStub()
	st.status.Fault = strings.Repeat("x", 1000)
	addr := freeAddr(t)
	start(t, Options{Director: st, Listen: addr})
	res, err := http.Get("http://" + addr + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	in := bufio.NewReader(res.Body)
	for range 2 { // it goes on
		line, err := in.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		var e event
		if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "data: ")), &e); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		if e.Status.Version != "1.2.3" || len(e.Status.Fault) > 200 || strings.Contains(e.Status.Services[0].Reals[1].Reason, "\x1b") || len(e.History) != 1 || len(e.Rates) != 1 {
			t.Errorf("%+v", e)
		}
		if _, err := in.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
}

// Fault 25: clients that do nothing, or do not read, cost a bounded number of
// connections, and none of the director's time: a page more asks no more.
func TestFault25ReadersThatDoNotRead(t *testing.T) {
	st := newStub()
	addr := freeAddr(t)
	start(t, Options{Director: st, Listen: addr})
	before := openFiles(t)
	var idle []net.Conn
	defer func() {
		for _, c := range idle {
			c.Close()
		}
	}()
	for i := range 300 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		idle = append(idle, c)
		if i < maxStreams+4 {
			fmt.Fprintf(c, "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
		}
	}
	time.Sleep(200 * time.Millisecond) // the server accepts what it ever will
	if more := openFiles(t) - before - len(idle); more > maxConnections+10 {
		t.Errorf("%d idle clients hold %d descriptors", len(idle), more)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if asked := len(st.calls); asked > 12 { // status, list and history, at most every second
		t.Errorf("%d streams asked the director %d times", maxStreams, asked)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// Fault 25: the page and its events answer to names that are known to be this
// host's; metrics to any.
func TestFault25HostHeader(t *testing.T) {
	addr := freeAddr(t)
	start(t, Options{Director: newStub(), Listen: addr, Hosts: []string{"lb1.example.com"}})
	own, _ := os.Hostname()
	for host, want := range map[string]int{
		"127.0.0.1:9100": 200, "[::1]:9100": 200, "192.0.2.1": 200, "localhost": 200, "LB1.example.com:80": 200, "lb1.example.com.": 200, own: 200,
		"evil.example.com": 403, "lb1.example.com.evil.org": 403, "": 403,
	} {
		if got := isKnownName(host, []string{"lb1.example.com", "localhost", own}); got != (want == 200) {
			t.Errorf("%q is known: %v", host, got)
		}
		if host == "" {
			continue // the client would fill it in
		}
		for path, code := range map[string]int{"/": want, "/metrics": 200, "/healthz": 200} {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+path, nil)
			req.Host = host
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != code {
				t.Errorf("%s of %q: %d, want %d", path, host, res.StatusCode, code)
			}
		}
	}
}

func TestHealthz(t *testing.T) {
	if code, body := get(t, newStub(), http.MethodGet, "/healthz"); code != http.StatusOK || body != "ok\n" {
		t.Errorf("%d %q", code, body)
	}
	if code, body := get(t, newStub(), http.MethodHead, "/healthz"); code != http.StatusOK || body != "" {
		t.Errorf("HEAD: %d %q", code, body)
	}
	st := newStub()
	st.err = director.ErrStopped
	if code, _ := get(t, st, http.MethodGet, "/healthz"); code != http.StatusServiceUnavailable {
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
		{http.MethodGet, pathReload, http.StatusNotFound},
		{http.MethodGet, pathStatus, http.StatusNotFound},
		{http.MethodGet, pathList + "?connections=0", http.StatusNotFound},
		{http.MethodHead, "/", http.StatusOK},
	} {
		st := newStub()
		if code, _ := get(t, st, c.method, c.path); code != c.code {
			t.Errorf("%s %s: %d", c.method, c.path, code)
		}
		if c.code != http.StatusOK && len(st.calls) != 0 {
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

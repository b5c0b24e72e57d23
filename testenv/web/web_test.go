package web_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv/web"
	"go.uber.org/goleak"
)

func start(t *testing.T) (*web.Server, string, string) {
	t.Helper()
	s, err := web.New("r1")
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	secure, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ends := make(chan error, 2)
	go func() { ends <- s.Serve(listener) }()
	go func() { ends <- s.ServeTLS(secure) }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		for range 2 {
			if err := <-ends; err != nil {
				t.Errorf("Serve: %v", err)
			}
		}
		http.DefaultClient.CloseIdleConnections()
		goleak.VerifyNone(t)
	})
	return s, "http://" + listener.Addr().String(), "https://" + secure.Addr().String()
}

func TestAnswers(t *testing.T) {
	s, url, _ := start(t)
	s.SetHealth(http.StatusServiceUnavailable)
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/", "", 200, "r1\n"},
		{"GET", "/client", "", 200, "127.0.0.1\n"},
		{"GET", "/bytes/0", "", 200, ""},
		{"GET", "/bytes/70000", "", 200, strings.Repeat("\x00", 70000)},
		{"GET", "/bytes/-1", "", 400, "bytes: want a number, as in /bytes/1000\n"},
		{"GET", "/health", "", 503, "Service Unavailable\n"},
		{"GET", "/nothing", "", 404, "404 page not found\n"},
		{"PUT", "/anywhere", "12345", 200, "5\n"},
		{"POST", "/", "", 200, "0\n"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, url+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != c.status || string(body) != c.want {
			t.Errorf("%s %s: %d %.40q, %v; want %d %.40q", c.method, c.path, resp.StatusCode, body, err, c.status, c.want)
		}
	}
}

func TestLog(t *testing.T) {
	s, url, _ := start(t)
	for range 2 {
		resp, err := http.Post(url+"/up", "text/plain", bytes.NewReader(make([]byte, 1000)))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	var log []web.Access
	for deadline := time.Now().Add(10 * time.Second); len(log) < 2 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		log = s.Log()
	}
	if len(log) != 2 {
		t.Fatalf("%d entries, want 2", len(log))
	}
	a := log[1]
	if a.Client.Addr() != netip.MustParseAddr("127.0.0.1") || "http://"+a.Local.String() != url ||
		a.Method != "POST" || a.Path != "/up" || a.Status != 200 || a.Bytes != 1000 {
		t.Errorf("entry %+v", a)
	}
}

func TestTLS(t *testing.T) {
	s, _, url := start(t)
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(s.Certificate()) {
		t.Fatal("no certificate")
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: s.Name()}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}

func TestUDP(t *testing.T) {
	s, err := web.New("r1")
	if err != nil {
		t.Fatal(err)
	}
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	end := make(chan error, 1)
	go func() { end <- s.ServeUDP(p) }()
	conn, err := net.Dial("udp", p.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("who?")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	n, err := conn.Read(buf)
	if err != nil || string(buf[:n]) != "r1\n" {
		t.Errorf("answer %q, %v", buf[:n], err)
	}
	p.Close()
	if err := <-end; err != nil {
		t.Error(err)
	}
	if log := s.Log(); len(log) != 1 || log[0].Method != "UDP" || log[0].Client.String() != conn.LocalAddr().String() {
		t.Errorf("log %+v", log)
	}
}

package admin

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lvx-lb/lvx/pkg/director"
)

// A daemon that works at a request says so, and is waited for as long as it does;
// one that has stopped is not.
func TestFault19AWorkingDaemonIsWaitedFor(t *testing.T) {
	for name, c := range map[string]struct {
		signs int // that it works, one every 20 s
		ends  bool
		after time.Duration
		says  string
	}{
		"works":                {30, true, 600 * time.Second, ""},
		"works and hangs":      {3, false, 90 * time.Second, "has not answered for 30s"},
		"hangs from the start": {0, false, 30 * time.Second, "has not answered for 30s"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				here, there := net.Pipe()
				client := NewClient("sock")
				client.http.Transport = &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return here, nil }}
				var server sync.WaitGroup
				server.Go(func() {
					_, _ = there.Read(make([]byte, 4096))
					for range c.signs {
						time.Sleep(20 * time.Second)
						fmt.Fprint(there, "HTTP/1.1 102 Processing\r\n\r\n")
					}
					if c.ends {
						fmt.Fprint(there, okHead+`{"did": ["done"]}`)
					} else {
						_, _ = there.Read(make([]byte, 1))
					}
					there.Close()
				})
				began := time.Now()
				r, err := client.Upgrade(t.Context(), "/bin/lvx")
				if took := time.Since(began); took != c.after || (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
					t.Errorf("%v, %v after %v, want %q after %v", r, err, took, c.says, c.after)
				}
				server.Wait()
			})
		})
	}
}

// What takes its time says that it is at work, until it is done.
func TestSlowChangesSayThatTheyWork(t *testing.T) {
	s := NewServer(Options{})
	release := make(chan struct{})
	h := changeSlowly(s, time.Millisecond, func(context.Context, struct{}) (director.Result, error) {
		<-release
		return director.Result{Did: []string{"done"}}, nil
	})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), uidKey{}, uint32(0))))
	}))
	defer server.Close()
	heard := sync.OnceFunc(func() { close(release) })
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
		if code == http.StatusProcessing {
			heard()
		}
		return nil
	}})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("answer %s", res.Status)
	}
	http.DefaultClient.CloseIdleConnections()
}

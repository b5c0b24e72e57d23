package notify

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// patience is how long a test waits for what must happen.
const patience = 60 * time.Second

// evil tries to become a header, a terminal escape and a second variable.
var evil = message{
	Event: Event{
		Kind: Real, Name: "172.25.0.12:80", Service: "web", Old: "up", New: "down",
		Reason: "http GET /: 503\r\nBcc: victim@example.org\r\n\r\n\x1b[31mLVX_NEW=up Grüße \u202e" + strings.Repeat("x", 500),
		Time:   time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC),
	}.clean(),
	host:    "lb1",
	changes: 2,
}

func TestClean(t *testing.T) {
	want := "http GET /: 503 Bcc: victim@example.org ?[31mLVX_NEW=up Grüße ?xxx"
	if !strings.HasPrefix(evil.Reason, want) || len(evil.Reason) > 200 {
		t.Errorf("reason %q", evil.Reason)
	}
	if e := (Event{}).clean(); e.Time.IsZero() {
		t.Error("no time")
	}
}

// script writes an executable that only root can change.
func script(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestExec(t *testing.T) {
	out := filepath.Join(t.TempDir(), "env")
	name := script(t, "#!/bin/sh\nenv | sort >\"$1\"\necho \"args: $*\" >>\"$1\"\n")
	t.Setenv("SECRET", "of the daemon")
	n, err := New(Options{Exec: []string{"  " + name + "   " + out + " two"}, Host: "lb1"})
	if err != nil {
		t.Fatal(err)
	}
	n.Notify(Event{Kind: Service, Name: "web", Old: "up", New: "down", Reason: "quorum\nlost", Time: evil.Time})
	runUntil(t, n, func() bool { return n.Counters().Delivered == 1 })
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"LVX_CHANGES=1", "LVX_HOST=lb1", "LVX_KIND=service", "LVX_NAME=web", "LVX_NEW=down", "LVX_OLD=up", "LVX_REAL=",
		"LVX_REASON=quorum lost", "LVX_SERVICE=web", "LVX_TEXT=service web: up -> down: quorum lost", "LVX_TIME=2026-02-03T04:05:06Z",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "PWD=/", "args: " + out + " two",
	}
	if diff := cmp.Diff(strings.Join(want, "\n")+"\n", string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// runUntil runs n until done says so, and then until it has ended.
func runUntil(t *testing.T, n *Notifier, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ended := make(chan error)
	go func() { ended <- n.Run(ctx) }()
	for !done() && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	if ctx.Err() != nil {
		t.Errorf("it did not happen: %+v", n.Counters())
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestExecErrors(t *testing.T) {
	h := &hook{argv: []string{script(t, "#!/bin/sh\nprintf 'no\\033 way'\nexit 3\n")}}
	if err := h.send(t.Context(), evil); err == nil || err.Error() != "exit status 3: no? way" {
		t.Errorf("%v", err)
	}
	name := script(t, "#!/bin/sh\n")
	if err := os.Chmod(name, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := (&hook{argv: []string{name}}).send(t.Context(), evil); err == nil || !strings.Contains(err.Error(), "writable by others") {
		t.Errorf("a program that others can write: %v", err)
	}
}

func TestWebhook(t *testing.T) {
	var got map[string]any
	var method, contentType string
	status := http.StatusNoContent
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		method, contentType = r.Method, r.Header.Get("Content-Type")
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		w.Header().Set("Location", "http://192.0.2.1/")
		w.WriteHeader(status)
	}))
	defer srv.Close()
	w, err := newWebhook(srv.URL + "/secret?token=1")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.send(t.Context(), evil); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"kind": "real", "name": "172.25.0.12:80", "service": "web", "real": "172.25.0.12:80", "old": "up", "new": "down",
		"reason": evil.Reason, "time": "2026-02-03T04:05:06Z", "host": "lb1", "changes": 2.0, "text": evil.text(),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if method != "POST" || contentType != "application/json" {
		t.Errorf("%s of %s", method, contentType)
	}
	status = http.StatusFound
	if err := w.send(t.Context(), evil); err == nil || !strings.Contains(err.Error(), "status 302") {
		t.Errorf("a redirect: %v", err)
	}
	srv.Close()
	err = w.send(t.Context(), evil)
	if err == nil || strings.Contains(err.Error()+w.String(), "secret") {
		t.Errorf("no server: %v, %s", err, w)
	}
}

// mailbox is an SMTP server: it speaks the protocol and keeps what it gets.
type mailbox struct {
	addr  string
	mails chan mailItem
}

type mailItem struct {
	from string
	to   []string
	data string
}

// serveMail answers every command as RFC 5321 wants it; refuse is the answer
// to RCPT of nobody, if there is one.
func serveMail(t *testing.T, refuse string) *mailbox {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &mailbox{l.Addr().String(), make(chan mailItem, 10)}
	done := make(chan bool)
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			m.session(c, refuse)
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return m
}

func (m *mailbox) session(c net.Conn, refuse string) {
	defer c.Close()
	tp := textproto.NewConn(c)
	var item mailItem
	say := func(s string) { _ = tp.PrintfLine("%s", s) }
	say("220 test ready")
	for {
		line, err := tp.ReadLine()
		if err != nil {
			return
		}
		verb, arg, _ := strings.Cut(line, ":")
		switch strings.ToUpper(strings.Fields(verb)[0]) {
		case "EHLO":
			say("250-test at your service")
			say("250 SIZE 1000000")
		case "MAIL":
			item.from = strings.Fields(arg)[0]
			say("250 ok")
		case "RCPT":
			if refuse != "" && strings.Contains(arg, "nobody") {
				say(refuse)
				continue
			}
			item.to = append(item.to, strings.Fields(arg)[0])
			say("250 ok")
		case "DATA":
			say("354 go on")
			data, err := io.ReadAll(tp.DotReader())
			if err != nil {
				return
			}
			item.data = string(data)
			m.mails <- item
			item = mailItem{}
			say("250 queued")
		case "QUIT":
			say("221 bye")
			return
		default:
			say("500 what?")
		}
	}
}

func TestMail(t *testing.T) {
	box := serveMail(t, "")
	n, err := New(Options{Host: "lb1", SMTP: SMTP{Server: box.addr, From: "lvx@localhost", To: []string{"root@localhost", "ops@example.org"}}})
	if err != nil {
		t.Fatal(err)
	}
	e := evil.Event
	e.Reason = "http GET /: 503\r\nBcc: victim@example.org\r\n\r\n.\r\nGrüße"
	n.Notify(e)
	var item mailItem
	runUntil(t, n, func() bool {
		select {
		case item = <-box.mails:
			return true
		default:
			return false
		}
	})
	if item.from != "<lvx@localhost>" || !cmp.Equal(item.to, []string{"<root@localhost>", "<ops@example.org>"}) {
		t.Errorf("envelope %+v", item)
	}
	msg, err := mail.ReadMessage(strings.NewReader(item.data))
	if err != nil {
		t.Fatalf("%v in %q", err, item.data)
	}
	if msg.Header.Get("Bcc") != "" {
		t.Error("a reason became a header")
	}
	if got := msg.Header.Get("To"); got != "root@localhost, ops@example.org" {
		t.Errorf("To: %q", got)
	}
	if date, err := msg.Header.Date(); err != nil || !date.Equal(evil.Time) {
		t.Errorf("Date %v, %v", date, err)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(msg.Header.Get("Subject"))
	if want := "[lvx lb1] real 172.25.0.12:80 of web: up -> down: http GET /: 503 Bcc: victim@example.org . Grüße"; err != nil || subject != want {
		t.Errorf("Subject %q, %v\nwant %q", subject, err, want)
	}
	body, err := io.ReadAll(quotedprintable.NewReader(msg.Body))
	if err != nil {
		t.Fatal(err)
	}
	want := `Host:    lb1
Time:    2026-02-03T04:05:06Z
Kind:    real
Name:    172.25.0.12:80
Service: web
Change:  up -> down
Reason:  http GET /: 503 Bcc: victim@example.org . Grüße
`
	if diff := cmp.Diff(want, strings.ReplaceAll(string(body), "\r\n", "\n")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestMailRefused(t *testing.T) {
	box := serveMail(t, "550 no \x1b[31msuch user")
	m, err := newMailer(SMTP{Server: box.addr, From: "lvx@localhost", To: []string{"nobody@localhost"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.send(t.Context(), evil); err == nil || err.Error() != "server says 550 no ?[31msuch user" {
		t.Errorf("%v", err)
	}
}

// An address that the server refuses keeps the mail from no other; nobody gets it
// twice.
func TestMailToOneWhoIsRefused(t *testing.T) {
	box := serveMail(t, "550 no such user")
	m, err := newMailer(SMTP{Server: box.addr, From: "lvx@localhost", To: []string{"nobody@localhost", "root@localhost"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := deliver(t.Context(), m, evil); err == nil || err.Error() != "nobody@localhost: server says 550 no such user; the others have it" {
		t.Errorf("%v", err)
	}
	if n := len(box.mails); n != 1 {
		t.Fatalf("%d mails", n)
	}
	if item := <-box.mails; !cmp.Equal(item.to, []string{"<root@localhost>"}) {
		t.Errorf("envelope %+v", item)
	}
}

// A server that accepts and says nothing costs the timeout, no more.
func TestMailServerThatNeverAnswers(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	m, err := newMailer(SMTP{Server: l.Addr().String(), From: "lvx@localhost", To: []string{"root@localhost"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := m.send(ctx, evil); err == nil || err.Error() != "timeout" {
		t.Errorf("%v, want timeout", err)
	}
}

// However long and strange the texts, every line of a mail is one that SMTP
// allows, and the headers are the ones that were meant.
func FuzzCompose(f *testing.F) {
	f.Add("web", "reason", "lb1")
	f.Add("a\r\nBcc: x", "\r\n.\r\n", "ü\x00")
	f.Fuzz(func(t *testing.T, name, reason, host string) {
		m := mailer{SMTP{From: "lvx@localhost", To: []string{"root@localhost"}}}
		n := Notifier{host: host}
		e := Event{Kind: Real, Name: name, Reason: reason, Old: "up", New: "down", Time: evil.Time}.clean()
		text := m.compose(message{Event: e, host: Event{Name: n.host}.clean().Name, changes: 1})
		headers := 0
		s := bufio.NewScanner(strings.NewReader(string(text)))
		inHeader := true
		for s.Scan() {
			line := s.Text()
			if len(line) > 998 {
				t.Fatalf("line of %d bytes", len(line))
			}
			inHeader = inHeader && line != ""
			if inHeader && !strings.HasPrefix(line, " ") {
				headers++
			}
		}
		if headers != 9 {
			t.Fatalf("%d headers in %q", headers, text)
		}
		if _, err := mail.ReadMessage(strings.NewReader(string(text))); err != nil {
			t.Fatal(fmt.Errorf("%w in %q", err, text))
		}
	})
}

// Fault 14: a hundred changes are a mail or two, not a hundred.
func TestFault14MailIsSummarised(t *testing.T) {
	box := serveMail(t, "")
	n, err := New(Options{Host: "lb1", SMTP: SMTP{Server: box.addr, From: "lvx@localhost", To: []string{"root@localhost"}}})
	if err != nil {
		t.Fatal(err)
	}
	const changes = 100
	for i := range changes {
		n.Notify(Event{Kind: Real, Name: fmt.Sprintf("10.0.0.%d", i), Service: "web", Old: "up", New: "down", Reason: "refused"})
	}
	mails, sent := 0, 0
	deadline := time.Now().Add(10 * time.Second)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	for sent < changes && time.Now().Before(deadline) {
		select {
		case item := <-box.mails:
			mails++
			msg, err := mail.ReadMessage(strings.NewReader(item.data))
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(quotedprintable.NewReader(msg.Body))
			if err != nil {
				t.Fatal(err)
			}
			n := strings.Count(string(body), "up -> down")
			if n > 1 && !strings.Contains(msg.Header.Get("Subject"), "messages: real 10.0.0.") {
				t.Errorf("Subject %q", msg.Header.Get("Subject"))
			}
			sent += n
			if mails == 1 {
				cancel() // the rest goes at once
			}
		case <-time.After(time.Second):
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if sent != changes || mails > 2 {
		t.Errorf("%d changes in %d mails, want %d in at most 2", sent, mails, changes)
	}
}

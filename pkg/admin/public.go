package admin

import (
	"html/template"
	"net/http"
	"net/netip"
	"time"

	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/guard"
)

// public is what the TCP listener answers: GET, and nothing that changes or
// lists clients.
func (s *Server) public() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", s.metrics())
	mux.HandleFunc("/{$}", s.page)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			w.Header().Set("Allow", http.MethodGet)
			http.Error(w, "GET only", http.StatusMethodNotAllowed)
			return
		}
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		mux.ServeHTTP(w, r)
	})
}

func (s *Server) page(w http.ResponseWriter, r *http.Request) {
	st, err := s.opt.Director.Status(r.Context())
	if err != nil {
		http.Error(w, guard.Text(err.Error()), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if err := statusPage.Execute(w, st); err != nil {
		s.log.Debug("page not sent", "err", err)
	}
}

// statusPage is plain on purpose: no script, no image, nothing to load.
// html/template escapes; "text" bounds what came from outside.
var statusPage = template.Must(template.New("status").Funcs(template.FuncMap{
	"text": guard.Text,
	"real": func(r director.RealStatus) string { return director.RealName(netip.AddrPortFrom(r.Addr, r.Port)) },
	"ago":  func(st director.Status, t time.Time) string { return age(st.Now, t) },
}).Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>lvx</title>
<style>body{font-family:monospace}td,th{padding:0 1em 0 0;text-align:left}.down,.FAULT{color:#b00}</style></head><body>
<h1>lvx {{text .Version}}</h1>
<p>{{text .Backend}} {{text .Mode}}, up {{ago . .Started}}{{with .Detail}}: {{text .}}{{end}}</p>
{{with .Fault}}<p class="down">not applied: {{text .}}</p>{{end}}
{{with .Reload.Error}}<p class="down">reload refused: {{text .}}</p>{{end}}
{{range .Warnings}}<p>warning: {{text .Subject}}: {{text .Text}}{{with .Cure}} ({{text .}}){{end}}</p>{{end}}
{{$st := .}}{{if .VRRP}}<h2>VRRP</h2><table><tr><th>instance</th><th>role</th><th>since</th><th>priority</th><th>why</th></tr>
{{range .VRRP}}<tr><td>{{.Instance}}</td><td class="{{.Role}}">{{.Role}}</td><td>{{ago $st .Since}}</td><td>{{.Priority}}</td><td>{{text .Why}} {{text .Warning}}</td></tr>
{{end}}</table>{{end}}
{{range $s := .Services}}<h2>{{.Name}}</h2><p class="{{.State}}">{{.State}}, {{.Scheduler}},{{range .Listeners}} {{.}}{{end}}{{with .BackendReason}}, {{$s.Backend}}: {{text .}}{{end}}{{with .Reason}}: {{text .}}{{end}}</p>
<table><tr><th>real</th><th>state</th><th>weight</th><th>since</th><th>reason</th></tr>
{{range .Reals}}<tr class="{{.State}}"><td>{{real .}}</td><td>{{.State}}</td><td>{{.Weight}}</td><td>{{ago $st .Since}}</td><td>{{text .Reason}}</td></tr>
{{end}}</table>
{{end}}</body></html>
`))

// age is how long ago t was, "" if it never was.
func age(now, t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return now.Sub(t).Truncate(time.Second).String()
}

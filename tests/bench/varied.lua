-- Requests of which no two are alike: a path, a query, a request id of their own, and what browsers send besides.
local n = 0

function request()
  n = n + 1
  return wrk.format("GET", "/item/" .. n .. "?q=" .. (n * 7919 % 100003), {
    ["accept"] = "*/*",
    ["cookie"] = "sid=abcdef0123456789; theme=dark",
    ["user-agent"] = "wrk",
    ["x-request-id"] = "req-" .. n .. "-" .. (n * 31 % 1000003),
  })
end

-- wrk asks for a name at random: PATH with @ for one of NAMES numbers of seven digits, and with # for a number that never
-- comes twice, so that no answer is remembered.
local path, names, asked = os.getenv("RANDOM_PATH"), tonumber(os.getenv("RANDOM_NAMES")), os.time() * 1000
function init() math.randomseed(os.time()) end
function request()
  asked = asked + 1
  local named = path:gsub("@", string.format("%07d", math.random(0, names - 1)))
  return wrk.format("GET", (named:gsub("#", asked)))
end
